"""Scores from vocabulary-sharded logits; ranks exchange only what the sampler needs."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from parallel.decoding.score_row import ScoreRow
from parallel.group import Group
from parallel.model.sharding import UNIT

# Shape suffixes: N = rows, K = candidates, V = shard of the vocabulary, R = ranks.


def gather_scores(
    logits_NV: Tensor,
    vocab_start: int,
    vocab_size: int,
    num_candidates: Sequence[int | None],
    group: Group,
) -> list[ScoreRow]:
    """Return each row's scores in memory of the host, the same on every rank.

    Args:
        logits_NV: [N, V] this rank's logits, float32.
        vocab_start: token of its first column.
        vocab_size: size of the whole vocabulary.
        num_candidates: for each row, how many of the best tokens to return; None is all.
        group: the ranks; all must call with the same candidates.

    Returns:
        Rows in order. Candidates are sorted by score, then by id.
    """
    if len(num_candidates) != len(logits_NV):
        raise ValueError(
            f"{len(logits_NV)} rows of logits for {len(num_candidates)} numbers of candidates"
        )
    rows: list[ScoreRow | None] = [None] * len(num_candidates)
    best = {index: number for index, number in enumerate(num_candidates) if number is not None}
    whole = [index for index, number in enumerate(num_candidates) if number is None]
    if best:
        depth = min(max(best.values()), vocab_size)
        values, ids = (
            part.cpu()
            for part in _candidates(_rows(logits_NV, list(best)), vocab_start, depth, group)
        )
        for i, (index, number) in enumerate(best.items()):
            rows[index] = ScoreRow(values[i, :number], ids[i, :number])
    if whole:
        full = _whole(_rows(logits_NV, whole), vocab_start, vocab_size, group).cpu()
        for i, index in enumerate(whole):
            rows[index] = ScoreRow(full[i], None)
    return [row for row in rows if row is not None]


def _rows(logits_NV: Tensor, indices: list[int]) -> Tensor:
    return logits_NV if len(indices) == len(logits_NV) else logits_NV[indices]


def _candidates(
    logits_NV: Tensor, vocab_start: int, depth: int, group: Group
) -> tuple[Tensor, Tensor]:
    """Return the values and ids of the best `depth` tokens, each [N, depth]."""
    values_NK, ids_NK = _local_best(logits_NV, depth)
    if group.size == 1:
        return values_NK, ids_NK
    ids_NK = ids_NK + vocab_start
    # Values and ids travel together; a float64 holds every id and every float32 exactly.
    if depth == 1:
        theirs_R2N1 = group.all_gather(torch.stack((values_NK.double(), ids_NK.double())))
        values, ids = theirs_R2N1[..., 0].unbind(1)
        best = values.max(dim=0)  # the first of equals, and ids increase with the rank
        return best.values.float()[:, None], ids.gather(0, best.indices[None]).long().T
    shape = (2, len(logits_NV), depth)
    mine = torch.full(shape, -torch.inf, dtype=torch.float64, device=logits_NV.device)
    mine[0, :, : values_NK.shape[1]] = values_NK
    mine[1, :, : ids_NK.shape[1]] = ids_NK
    theirs_R2NK = group.all_gather(mine)
    values, ids = (part.movedim(0, 1).flatten(1) for part in theirs_R2NK.unbind(1))
    # Ids increase with the rank and each rank sorts its own, so a stable sort by value keeps
    # equal values in order of their ids.
    order = values.sort(dim=1, descending=True, stable=True).indices[:, :depth]
    return values.gather(1, order).float(), ids.gather(1, order).long()


def _local_best(logits_NV: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Return a shard's best values and columns, equal values in order of their columns."""
    if depth == 1:
        best = logits_NV.max(dim=1, keepdim=True)
        return best.values, best.indices  # the first of equals
    depth = min(depth, logits_NV.shape[1])
    top = logits_NV.topk(min(depth + 1, logits_NV.shape[1]), dim=1)
    edge = top.values[:, depth - 1 : depth]
    columns = top.indices[:, :depth]
    if not bool((top.values[:, depth:] < edge).all()):
        # topk returns any of several equal values; a stable sort of all candidates, the first.
        reaching = max(
            depth, int((logits_NV >= edge).sum(dim=1).max())
        )  # comparisons with NaN are false
        columns = logits_NV.topk(reaching, dim=1).indices
    columns = columns.sort(dim=1).values
    values = logits_NV.gather(1, columns)
    order = values.sort(dim=1, descending=True, stable=True).indices[:, :depth]
    return values.gather(1, order), columns.gather(1, order)


def _whole(logits_NV: Tensor, vocab_start: int, vocab_size: int, group: Group) -> Tensor:
    """Return all columns, [N, vocab_size].

    Shards differ in width by at most a unit. They are padded to a common width, and the first token
    of each is sent in an extra column (exact in float32 below 2**24), so one exchange is enough.
    """
    if group.size == 1:
        return logits_NV
    num_rows, width = logits_NV.shape
    widest = vocab_size // group.size + UNIT
    padded = logits_NV.new_zeros((num_rows, widest + 1))
    padded[:, :width] = logits_NV
    padded[:, widest] = vocab_start
    parts = group.all_gather(padded)
    starts = [int(start) for start in parts[:, 0, widest].tolist()]
    widths = [b - a for a, b in pairwise([*starts, vocab_size])]
    assert widths[group.rank] == width, "shards are not contiguous in rank order"
    return torch.cat([part[:, :wide] for part, wide in zip(parts, widths, strict=True)], dim=1)
