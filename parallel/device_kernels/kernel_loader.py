"""Load the Triton kernels, which need a package that a machine without a GPU can do without."""

from importlib import import_module
from importlib.util import find_spec

from parallel.device_kernels.step_kernels import StepKernels
from parallel.errors import PacelineError

_REMEDY = "install it with pip install 'paceline[gpu]'"


class KernelsMissing(PacelineError):
    """The GPU kernels cannot be loaded."""


def check_kernels(package: str = "triton") -> None:
    """Raise KernelsMissing if the package that the kernels need is not installed."""
    if find_spec(package) is None:
        raise KernelsMissing(f"a model on a GPU needs the package {package}: {_REMEDY}")


def load_kernels(package: str = "triton") -> StepKernels:
    """Return the Triton kernels.

    Args:
        package: what they need.

    Raises:
        KernelsMissing: it is not installed.
    """
    check_kernels(package)
    kernels: StepKernels = import_module("parallel.triton_kernels.kernel_set").TritonKernels()
    return kernels
