"""The addresses that each row of a forward attends to, as the native kernels take them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parallel.batch import SequenceRows, path_to
from parallel.kernels.native_library import CRows
from parallel.model.cache import AppendPlan, PagedCache

_Int32s = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class NativeRows:
    """The rows of one forward, for one kind of attention."""

    parts: CRows
    held: tuple[object, ...]
    """The memory that `parts` points into."""


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What the rows of one sequence see: part of its context, then single addresses."""

    first: _Int32s
    stop: _Int32s
    extra: Sequence[_Int32s]


def plan_rows(
    rows: Sequence[SequenceRows],
    plans: Sequence[AppendPlan],
    cache: PagedCache,
    *,
    windows: Sequence[int | None],
    turns: Sequence[Tensor],
) -> list[NativeRows]:
    """Return what the rows see under each window.

    Args:
        rows: the new tokens of each sequence.
        plans: their addresses in the cache.
        cache: the cache that holds them.
        windows: for each kind of attention, the positions that it looks back over.
        turns: for each kind, the rotation of each row, [R, 1, head_dim / 2] complex.
    """
    contexts = [cache.addresses(plan) for plan in plans]
    context = np.concatenate(contexts)
    address = np.concatenate(
        [addresses[plan.start :] for addresses, plan in zip(contexts, plans, strict=True)]
    )
    planned: list[NativeRows] = []
    for window, turn in zip(windows, turns, strict=True):
        bounds = [
            _bounds(row, addresses, window) for row, addresses in zip(rows, contexts, strict=True)
        ]
        origins = np.cumsum([0, *(len(addresses) for addresses in contexts[:-1])])
        first = np.concatenate([b.first + o for b, o in zip(bounds, origins, strict=True)])
        stop = np.concatenate([b.stop + o for b, o in zip(bounds, origins, strict=True)])
        extras = [extra for b in bounds for extra in b.extra]
        planned.append(_native_rows(turn, context, address, first, stop, extras))
    return planned


def _native_rows(
    turn: Tensor,
    context: _Int32s,
    address: _Int32s,
    first: NDArray[np.int64],
    stop: NDArray[np.int64],
    extras: Sequence[_Int32s],
) -> NativeRows:
    if any(len(extra) for extra in extras):
        ends = np.cumsum([0, *(len(extra) for extra in extras)], dtype=np.int32)
        extra = np.concatenate(extras)
    else:
        ends = np.zeros(len(address) + 1, dtype=np.int32)
        extra = ends
    turns = torch.view_as_real(turn.contiguous())
    first32, stop32 = first.astype(np.int32), stop.astype(np.int32)
    parts = CRows(
        turns=turns.data_ptr(),
        context=context.ctypes.data,
        extra=extra.ctypes.data,
        first=first32.ctypes.data,
        stop=stop32.ctypes.data,
        extra_first=ends.ctypes.data,
        extra_stop=ends.ctypes.data + ends.itemsize,
        address=address.ctypes.data,
        num_rows=len(address),
    )
    return NativeRows(parts, (turns, context, extra, first32, stop32, ends, address))


def _bounds(row: SequenceRows, addresses: _Int32s, window: int | None) -> _Bounds:
    """Return what a sequence's rows see; a tree's nodes see the path from its root."""
    length, num_rows = len(addresses), len(row.token_ids)
    tree = length - len(row.parents)
    stop = np.minimum(np.arange(row.start + 1, length + 1, dtype=np.int32), tree)
    none = np.zeros(0, dtype=np.int32)
    extra = [none] * num_rows
    for node in range(max(0, row.start - tree), len(row.parents)):
        path = path_to(row.parents, node)
        visible = path if window is None else path[-window:]
        extra[tree + node - row.start] = addresses[[tree + i for i in visible]]
    if window is None:
        return _Bounds(np.zeros_like(stop), stop, extra)
    positions = np.array(row.positions, dtype=np.int32)
    return _Bounds(np.minimum(np.maximum(positions - window + 1, 0), stop), stop, extra)
