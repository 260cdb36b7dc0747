"""Which backend computes a model."""

import torch

from parallel.kernels.native_library import native_library
from parallel.model.backend import Backend
from parallel.model.native_backend import NativeBackend
from parallel.model.torch_backend import TorchBackend


def choose_backend(device: torch.device, dtype: torch.dtype) -> Backend:
    """Return the fastest backend for activations of this dtype on this device."""
    if device.type == "cpu" and dtype == torch.float32:
        library = native_library()
        if library is not None:
            return NativeBackend(library)
    return TorchBackend(dtype)
