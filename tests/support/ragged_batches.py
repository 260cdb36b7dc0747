"""Random ragged batches over a paged cache, and their attention by its definition, in float64."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from parallel.batch import SequenceRows, path_to
from parallel.device_kernels.step_kernels import AttentionRows, StepKernels, Workspace
from parallel.device_step.step_packing import PackingRules, SequenceStep, needed_shape, pack
from parallel.device_step.step_shape import StepShape, device_arrays

# Shape suffixes: R = rows, H = query heads, K = KV heads, D = head_dim, N = tokens of a sequence.


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """The heads of a batch."""

    num_heads: int = 4
    num_kv: int = 2
    dim: int = 64
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True, kw_only=True)
class AttendedSequence:
    """A sequence's step, its whole context, and its queries."""

    step: SequenceStep
    keys: Tensor
    """[K, N, D]."""
    values: Tensor
    """[K, N, D]."""
    query: Tensor
    """[R, H, D]."""


def random_sequences(
    rows: Sequence[SequenceRows], heads: HeadShape, page_size: int, seed: int
) -> list[AttendedSequence]:
    """Return sequences of random numbers on pages in random order, with unused pages between."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.Generator().manual_seed(seed)  # so that numbers do not depend on page sizes
    needs = [-(-(row.start + len(row.token_ids)) // page_size) for row in rows]
    pages = torch.randperm(2 * sum(needs), generator=shuffled).tolist()
    found = []
    for row, need in zip(rows, needs, strict=True):
        length = row.start + len(row.token_ids)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(heads.dtype)

        found.append(
            AttendedSequence(
                step=SequenceStep(rows=row, pages=[pages.pop() for _ in range(need)]),
                keys=2 * draw(heads.num_kv, length, heads.dim),
                values=draw(heads.num_kv, length, heads.dim),
                query=2 * draw(len(row.token_ids), heads.num_heads, heads.dim),
            )
        )
    return found


def on_pages(sequence: AttendedSequence, pages: Sequence[int]) -> AttendedSequence:
    """Return a sequence whose context is on other pages."""
    return replace(sequence, step=replace(sequence.step, pages=pages))


def poisoned_cache(
    sequences: Sequence[AttendedSequence], page_size: int, device: str
) -> tuple[Tensor, Tensor]:
    """Return keys and values, [K, A, D], NaN wherever no sequence has a token."""
    like = sequences[0].keys
    num_pages = 1 + max(page for sequence in sequences for page in sequence.step.pages)
    shape = (2, len(like), num_pages * page_size, like.shape[2])
    cache = torch.full(shape, torch.nan, dtype=like.dtype, device=device)
    for sequence in sequences:
        indices = torch.arange(sequence.keys.shape[1])
        pages = torch.tensor(sequence.step.pages)
        places = (pages[indices // page_size] * page_size + indices % page_size).to(device)
        cache[0][:, places] = sequence.keys.to(device)
        cache[1][:, places] = sequence.values.to(device)
    return cache[0], cache[1]


def attend_with(
    kernels: StepKernels,
    sequences: Sequence[AttendedSequence],
    *,
    page_size: int,
    window: int | None = None,
    cap: float | None = None,
    split: bool = False,
    shape: StepShape | None = None,
    device: str = "cpu",
) -> Tensor:
    """Return what the kernels write, [rows of the shape, H, D], over poisoned memory."""
    num_rows, num_heads, dim = torch.cat([s.query for s in sequences]).shape
    num_kv, dtype = len(sequences[0].keys), sequences[0].keys.dtype
    rules = PackingRules(
        page_size=page_size,
        windows=(window,),
        tile_rows=kernels.tile_rows(num_heads // num_kv, dtype.itemsize),
    )
    steps = [sequence.step for sequence in sequences]
    shape = shape or needed_shape(steps, rules)
    buffer = np.empty(shape.num_words, dtype=np.int32)
    pack(steps, shape, rules, buffer)
    arrays = device_arrays(torch.from_numpy(buffer).to(device), shape)
    keys, values = poisoned_cache(sequences, page_size, device)
    query = torch.full((shape.rows, num_heads, dim), torch.nan, dtype=dtype, device=device)
    query[:num_rows] = torch.cat([s.query for s in sequences]).to(device)
    workspace = None
    if split:
        splits = -(-shape.pages * page_size // kernels.split_size())
        places = (splits, shape.rows, num_heads)
        workspace = Workspace(
            values=torch.full((*places, dim), torch.nan, device=device),
            stats=torch.full((*places, 2), torch.nan, device=device),
        )
    out = torch.full_like(query, torch.nan)
    kernels.attend(
        query,
        keys,
        values,
        AttentionRows(
            tiles=arrays.tiles,
            ranges=arrays.ranges[0],
            bits=arrays.bits[0],
            trees=arrays.trees,
            tables=arrays.tables,
            page_size=page_size,
        ),
        out,
        scale=1 / math.sqrt(dim),
        cap=cap,
        workspace=workspace,
    )
    return out.cpu()


def reference_attention(
    sequences: Sequence[AttendedSequence], window: int | None = None, cap: float | None = None
) -> Tensor:
    """Return the attention of each row by its definition, [R, H, D], float64."""
    rows = [_row(s, i, window, cap) for s in sequences for i in range(len(s.query))]
    return torch.stack(rows)


def visible_tokens(rows: SequenceRows, row: int, window: int | None) -> list[int]:
    """Return the indices of the tokens that a row attends to."""
    positions = [*range(rows.start), *rows.positions]
    length = len(positions)
    tree = length - len(rows.parents)
    here = rows.start + row
    if here >= tree:
        ancestors = [tree + node for node in path_to(rows.parents, here - tree)]
        seen = [*range(tree), *ancestors]
    else:
        seen = list(range(here + 1))
    return [i for i in seen if window is None or positions[i] > positions[here] - window]


def _row(sequence: AttendedSequence, row: int, window: int | None, cap: float | None) -> Tensor:
    seen = visible_tokens(sequence.step.rows, row, window)
    query_HD = sequence.query[row].double()
    group = len(query_HD) // len(sequence.keys)
    keys, values = (
        part[:, seen].double().repeat_interleave(group, 0)
        for part in (sequence.keys, sequence.values)
    )
    scores = torch.einsum("hd,hnd->hn", query_HD, keys) / math.sqrt(query_HD.shape[1])
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    return torch.einsum("hn,hnd->hd", scores.softmax(-1), values)
