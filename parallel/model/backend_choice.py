"""Which backend computes a model."""

import torch

from parallel.device_kernels.kernel_loader import load_kernels
from parallel.kernels.native_library import native_library
from parallel.model.backend import Backend
from parallel.model.device_backend import DeviceBackend
from parallel.model.native_backend import NativeBackend
from parallel.model.torch_backend import TorchBackend


def choose_backend(device: torch.device, dtype: torch.dtype) -> Backend:
    """Return the fastest backend for activations of this dtype on this device.

    Raises:
        KernelsMissing: the device is a GPU, and the package of its kernels is not installed.
    """
    if device.type == "cuda":
        return DeviceBackend(load_kernels(), dtype)
    if device.type == "cpu" and dtype == torch.float32:
        library = native_library()
        if library is not None:
            return NativeBackend(library)
    return TorchBackend(dtype)
