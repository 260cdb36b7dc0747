"""Pack a step into one buffer: rows, page tables, tree masks, draws and drafts.

Everything that a kernel would have to decide about a sequence, such as the window of a tree's node,
is decided here, once a step. Padding rows have no page, see nothing and are nowhere read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parallel.batch import SequenceRows
from parallel.device_kernels.step_kernels import BITS_PER_WORD
from parallel.device_step.step_shape import StepArrays, StepShape, host_arrays

Words = NDArray[np.int32]
NO_TREE = 2**31 - 1
"""Position of the tree of a sequence without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceStep:
    """What one sequence brings into a step."""

    rows: SequenceRows
    pages: Sequence[int]
    """The pages of its context, in order; those beyond its last token may be left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingRules:
    """What packing needs to know of the model and its kernels."""

    page_size: int
    windows: tuple[int | None, ...]
    """For each kind of attention, the positions it looks back over; None is all."""
    tile_rows: int
    """Rows of an attention tile (`StepKernels.tile_rows`)."""


def needed_shape(steps: Sequence[SequenceStep], rules: PackingRules) -> StepShape:
    """Return the smallest shape into which a step fits, without padding rows."""
    counts = [len(step.rows.token_ids) for step in steps]
    return StepShape(
        rows=sum(counts),
        sequences=len(steps),
        pages=max((-(-_length(step) // rules.page_size) for step in steps), default=0),
        tiles=sum(-(-count // rules.tile_rows) for count in counts),
        scored=sum(step.rows.num_logits for step in steps),
        nodes=max(
            (max(step.rows.num_logits - 1, len(step.rows.parents)) for step in steps), default=0
        ),
        moves=sum(len(step.rows.moves) for step in steps),
        kinds=len(rules.windows),
    )


def max_tiles(rows: int, sequences: int, tile_rows: int) -> int:
    """Return the most tiles of a step with this many rows, padding included."""
    return min(rows, (rows + (sequences + 1) * (tile_rows - 1)) // tile_rows)


def pack(
    steps: Sequence[SequenceStep], shape: StepShape, rules: PackingRules, buffer: Words
) -> StepArrays[Words]:
    """Write a step into a buffer of `shape.num_words` and return the arrays that it holds.

    Raises:
        ValueError: the step does not fit the shape, or a sequence's pages do not hold its tokens.
    """
    needed = needed_shape(steps, rules)
    if not shape.covers(needed):
        raise ValueError(f"a step of {needed} does not fit {shape}")
    buffer.fill(0)
    arrays = host_arrays(buffer, shape)
    arrays.addresses[:] = -1
    arrays.trees[:] = NO_TREE
    row = scored = move = 0
    tiles: list[tuple[int, int, int]] = []
    for number, step in enumerate(steps):
        count = len(step.rows.token_ids)
        _pack_rows(arrays, step, rules, number, row)
        _pack_scores(arrays, step, number, row + count, scored)
        move = _pack_moves(arrays, step, rules, number, move)
        tiles += _tiles(number, row, row + count, rules.tile_rows)
        row, scored = row + count, scored + step.rows.num_logits
    arrays.move_offsets[len(steps) + 1 :] = move
    tiles += _tiles(0, row, shape.rows, rules.tile_rows)
    if len(tiles) > shape.tiles:
        raise ValueError(f"{len(tiles)} tiles do not fit {shape}")
    arrays.tiles[: len(tiles)] = tiles
    return arrays


def _length(step: SequenceStep) -> int:
    """Return how many tokens the sequence has after the step."""
    return step.rows.start + len(step.rows.token_ids)


def _tiles(sequence: int, first: int, stop: int, tile_rows: int) -> list[tuple[int, int, int]]:
    return [(sequence, i, min(tile_rows, stop - i)) for i in range(first, stop, tile_rows)]


def _addresses(pages: Words, indices: NDArray[np.int64], page_size: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = pages[indices // page_size].astype(np.int64) * page_size
    return found + indices % page_size


def _pack_rows(
    arrays: StepArrays[Words], step: SequenceStep, rules: PackingRules, number: int, first: int
) -> None:
    """Write a sequence's rows, and its pages up to its last token."""
    rows, length = step.rows, _length(step)
    num_pages = -(-length // rules.page_size)
    if len(step.pages) < num_pages:
        raise ValueError(
            f"slot {rows.slot} has {len(step.pages)} pages of {rules.page_size} for {length} tokens"
        )
    pages = np.asarray(step.pages[:num_pages], dtype=np.int32)
    arrays.tables[number, :num_pages] = pages
    here = slice(first, first + len(rows.token_ids))
    indices = np.arange(rows.start, length)
    positions = np.asarray(rows.positions)
    arrays.token_ids[here] = rows.token_ids
    arrays.positions[here] = positions
    arrays.addresses[here] = _addresses(pages, indices, rules.page_size)
    tree = length - len(rows.parents)
    if rows.parents:
        arrays.trees[number] = tree
    for kind, window in enumerate(rules.windows):
        ranges = arrays.ranges[kind, here]
        ranges[:, 0] = 0 if window is None else np.maximum(0, positions + 1 - window)
        ranges[:, 1] = np.minimum(indices + 1, tree)
        ranges[:, 2] = indices + 1
        if rows.parents:
            bits = arrays.bits[kind, here][-len(rows.parents) :]
            words = _ancestor_words(rows.parents, window, bits.shape[1])
            bits[:] = words[-len(bits) :]  # the first nodes may be in the cache already


def _ancestor_words(parents: Sequence[int], window: int | None, words: int) -> Words:
    """Return for each node of a tree the bits of itself and its ancestors in the window."""
    paths: list[list[int]] = []
    lines = np.zeros((len(parents), words), dtype=np.uint32)
    for node, parent in enumerate(parents):
        path = [*(paths[parent] if parent >= 0 else ()), node]
        paths.append(path)
        for seen in path if window is None else path[-window:]:
            lines[node, seen // BITS_PER_WORD] |= np.uint32(1 << seen % BITS_PER_WORD)
    return lines.view(np.int32)


def _pack_scores(
    arrays: StepArrays[Words], step: SequenceStep, number: int, stop: int, first: int
) -> None:
    """Write which of a sequence's rows are scored, their draws, and the draft that they verify.

    A tree of which only some nodes are scored, as a drafter grows them, verifies nothing.
    """
    rows = step.rows
    count = rows.num_logits
    if not count:
        return
    here = slice(first, first + count)
    arrays.scored[here] = np.arange(stop - count, stop)
    num_chain = count - 1 - len(rows.parents)
    if num_chain >= 0:
        arrays.drafts[number] = (first, count)
        parents = [
            *range(-1, num_chain - 1),
            *(num_chain + p if p >= 0 else num_chain - 1 for p in rows.parents),
        ]
        arrays.node_tokens[number, : count - 1] = rows.token_ids[len(rows.token_ids) - count + 1 :]
        arrays.node_parents[number, : count - 1] = parents
    draw = rows.draw
    if draw is not None:
        positions = rows.positions[-count:]
        draws = np.empty((count, 4), dtype=np.int64)
        draws[:, :2] = np.array((draw.key.seed, draw.key.request), dtype=np.uint64).view(np.int64)
        draws[:, 2] = draw.position + np.asarray(positions) - positions[0]
        draws[:, 3] = np.float64(draw.temperature).view(np.int64)
        arrays.draws[here] = draws.view(np.int32)


def _pack_moves(
    arrays: StepArrays[Words], step: SequenceStep, rules: PackingRules, number: int, first: int
) -> int:
    """Write where cached tokens go before the step; return the number of moves so far."""
    moves = step.rows.moves
    stop = first + len(moves)
    arrays.move_offsets[number + 1] = stop
    if moves:
        pages = np.asarray(step.pages, dtype=np.int32)
        targets = np.arange(step.rows.start - len(moves), step.rows.start)
        here = arrays.moves[first:stop]
        here[:, 0] = _addresses(pages, np.asarray(moves), rules.page_size)
        here[:, 1] = _addresses(pages, targets, rules.page_size)
    return stop
