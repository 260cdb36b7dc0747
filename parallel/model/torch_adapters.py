"""What adapters add to products, by torch's operators."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from parallel.model.low_rank import AdaptedPart, AdaptedRows, LowRank, ShardAdapter


class TorchAdapter:
    """A rank's part of an adapter, in float64.

    In float64 the order of a sum changes the result, once rounded, only where it is within 1e-16 of
    a border: a row keeps its bits in every batch.
    """

    def __init__(self, shard: ShardAdapter) -> None:
        """Widen the numbers."""
        self._layers: Sequence[Mapping[AdaptedPart, LowRank]] = [
            {part: LowRank(one.down.double(), one.up.double()) for part, one in layer.items()}
            for layer in shard
        ]
        numbers = [one.down for layer in shard for one in layer.values()]
        self.device = numbers[0].device if numbers else torch.device("cpu")

    def added(self, layer: int, part: AdaptedPart, x: Tensor) -> Tensor | None:
        """Return what it adds to a product of x, [rows, outputs] float64; None is nothing."""
        one = self._layers[layer].get(part)
        return None if one is None else x.double() @ one.down.T @ one.up.T


class TorchAdaptedRows:
    """The adapters of a forward's rows."""

    def __init__(self, rows: AdaptedRows) -> None:
        """Group the rows by adapter; the adapters are `TorchAdapter`s."""
        of_row = torch.tensor(rows.of_row)
        self._groups: list[tuple[TorchAdapter, Tensor]] = [
            (adapter, (of_row == number).nonzero().squeeze(1).to(adapter.device))
            for number, adapter in enumerate(rows.adapters)
        ]

    def add_(self, layer: int, parts: Mapping[AdaptedPart, int], x: Tensor, out: Tensor) -> None:
        """Add to products of x side by side in `out`, in place.

        Args:
            layer: the layer's index.
            parts: the products and their numbers of outputs, in the order of the columns.
            x: [rows, inputs].
            out: [rows, all outputs].
        """
        for adapter, rows in self._groups:
            inputs, column = x[rows], 0
            for part, num_outputs in parts.items():
                added = adapter.added(layer, part, inputs)
                if added is not None:
                    columns = slice(column, column + num_outputs)
                    out[rows, columns] += added.to(out.dtype)
                column += num_outputs


class TorchAdapterMaker:
    """The part of a backend that makes adapters, for backends that apply them by torch."""

    def adapter(self, shard: ShardAdapter) -> TorchAdapter:
        """Return a rank's part of an adapter in float64."""
        return TorchAdapter(shard)

    def plan_adapters(self, rows: AdaptedRows) -> TorchAdaptedRows:
        """Return the rows grouped by adapter."""
        return TorchAdaptedRows(rows)


Adding = Callable[[Tensor, Tensor], None]
"""Adds what adapters add to a product: takes its inputs and its outputs, which it changes."""


def adding(
    rows: TorchAdaptedRows | None, layer: int, parts: Mapping[AdaptedPart, int]
) -> Adding | None:
    """Return what adds the rows' adapters to these products; None where no row has one."""
    if rows is None:
        return None
    return lambda x, out: rows.add_(layer, parts, x, out)
