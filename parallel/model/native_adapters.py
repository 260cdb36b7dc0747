"""Adapters as the native kernels take them."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from parallel.kernels.native_library import CAdapters, CLowRank
from parallel.model.low_rank import AdaptedPart, AdaptedRows, ShardAdapter


class NativeAdapter:
    """A rank's part of an adapter, in the kernels' layout."""

    def __init__(self, shard: ShardAdapter) -> None:
        """Copy the numbers."""
        self._held: list[Tensor] = []
        self.parts = (CLowRank * (len(shard) * len(AdaptedPart)))()
        for index, layer in enumerate(shard):
            for part, one in layer.items():
                down, up = one.down.contiguous(), one.up.T.contiguous()
                self._held += (down, up)
                self.parts[index * len(AdaptedPart) + part] = CLowRank(
                    down.data_ptr(), up.data_ptr(), len(down)
                )


class NativeAdaptedRows:
    """The adapters of a forward's rows."""

    def __init__(self, rows: AdaptedRows) -> None:
        """Describe them; the adapters are `NativeAdapter`s."""
        adapters: Sequence[NativeAdapter] = rows.adapters
        self._of_row = torch.tensor(rows.of_row, dtype=torch.int32)
        self._adapters = adapters
        self._pointers = (ctypes.c_void_p * len(adapters))(
            *(ctypes.addressof(adapter.parts) for adapter in adapters)
        )
        self.parts = CAdapters(self._of_row.data_ptr(), ctypes.addressof(self._pointers))
