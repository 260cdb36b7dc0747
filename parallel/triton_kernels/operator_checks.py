"""What every operator checks before it launches, on real tensors and on fake ones."""

import torch
from torch import Tensor


def require(holds: bool, message: str) -> None:
    """Raise ValueError with the message unless it holds."""
    if not holds:
        raise ValueError(message)


def one_device(*tensors: Tensor | None) -> None:
    """Raise ValueError unless all tensors are on one device."""
    devices = sorted({str(tensor.device) for tensor in tensors if tensor is not None})
    require(len(devices) == 1, f"the tensors of one launch are on {' and '.join(devices)}")


def int32_matrices(**tensors: Tensor) -> None:
    """Raise ValueError unless all are int32 and their rows are contiguous."""
    for name, tensor in tensors.items():
        packed = tensor.dtype == torch.int32 and tensor.stride(-1) == 1
        require(packed, f"`{name}` is {tensor.dtype} with strides {tensor.stride()}: pack int32")


def same_dtype(**tensors: Tensor | None) -> None:
    """Raise ValueError unless all have one dtype that the kernels compute in."""
    dtypes = {name: tensor.dtype for name, tensor in tensors.items() if tensor is not None}
    known = set(dtypes.values()) <= {torch.float32, torch.bfloat16, torch.float16}
    require(
        known and len(set(dtypes.values())) == 1,
        f"one dtype of float32, bfloat16 and float16 is needed, not {dtypes}",
    )


def contiguous_ends(**tensors: Tensor) -> None:
    """Raise ValueError unless the values along the last dimension of each are adjacent."""
    for name, tensor in tensors.items():
        require(
            tensor.stride(-1) == 1, f"`{name}` has strides {tensor.stride()}: the last must be 1"
        )
