"""How long the parts of native calls take."""

import ctypes
from enum import IntEnum
from types import TracebackType
from typing import Self

from parallel.kernels.native_library import NativeLibrary


class KernelPart(IntEnum):
    """A part of native calls, with its number in csrc/clocks.h."""

    PRODUCTS = 0
    """Matrix products of layers."""
    ATTENTION = 1
    BETWEEN = 2
    """Norms, RoPE, activations, cache writes, and the rounding of products' inputs."""
    HEAD = 3
    """Products outside the layers."""


class KernelClocks:
    """Counts the calls that this thread makes in this context; other calls cost and change nothing.

    Parts are timed on the calling thread, which waits for the others at the end of each.
    """

    def __init__(self, library: NativeLibrary) -> None:
        self._library = library
        self._nanoseconds = (ctypes.c_int64 * len(KernelPart))()

    def __enter__(self) -> Self:
        """Begin to count."""
        self._library.clocks(ctypes.addressof(self._nanoseconds))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Count no more calls."""
        self._library.clocks(None)

    @property
    def seconds(self) -> dict[KernelPart, float]:
        """Seconds of each part so far."""
        return {part: self._nanoseconds[part] * 1e-9 for part in KernelPart}
