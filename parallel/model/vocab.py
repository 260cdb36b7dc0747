"""Scores from vocabulary-sharded logits: only what the sampler needs crosses the group."""

from collections.abc import Sequence

import torch
from torch import Tensor

from parallel.decoding.types import ScoreRow
from parallel.group import Group

# Shape suffixes: N = rows, K = candidates, V = shard of the vocabulary, R = ranks.


def gather_scores(
    logits_NV: Tensor,
    vocab_start: int,
    vocab_size: int,
    num_candidates: Sequence[int],
    group: Group,
) -> list[ScoreRow]:
    """Return each row's scores, the same on every rank.

    Args:
        logits_NV: [N, V] this rank's logits, float32.
        vocab_start: token of its first column.
        vocab_size: tokens of all ranks together.
        num_candidates: for each row, how many best tokens are needed; 0 is the whole vocabulary.
        group: the ranks; all call with the same candidates.

    Returns:
        Rows in order. Candidates stand best first, of equals the lowest id first.
    """
    if len(num_candidates) != len(logits_NV):
        raise ValueError(f"{len(logits_NV)} rows of logits for {len(num_candidates)} wishes")
    rows: list[ScoreRow | None] = [None] * len(num_candidates)
    best = [index for index, wanted in enumerate(num_candidates) if wanted]
    whole = [index for index, wanted in enumerate(num_candidates) if not wanted]
    if best:
        depth = min(max(num_candidates[index] for index in best), vocab_size)
        values, ids = _candidates(_rows(logits_NV, best), vocab_start, depth, group)
        for place, index in enumerate(best):
            wanted = num_candidates[index]
            rows[index] = ScoreRow(values[place, :wanted], ids[place, :wanted])
    if whole:
        full = _whole(_rows(logits_NV, whole), vocab_size, group)
        for place, index in enumerate(whole):
            rows[index] = ScoreRow(full[place], None)
    return [row for row in rows if row is not None]


def _rows(logits_NV: Tensor, indices: list[int]) -> Tensor:
    return logits_NV if len(indices) == len(logits_NV) else logits_NV[indices]


def _candidates(
    logits_NV: Tensor, vocab_start: int, depth: int, group: Group
) -> tuple[Tensor, Tensor]:
    """Return the best `depth` of all ranks, each [N, depth]: every rank sends its own best."""
    values_NK, ids_NK = _local_best(logits_NV, depth)
    ids_NK = ids_NK + vocab_start
    if group.size == 1:
        return values_NK, ids_NK
    # Values and ids travel together; a float64 holds every id and every float32 exactly.
    mine = torch.full((2, len(logits_NV), depth), -torch.inf, dtype=torch.float64)
    mine[0, :, : values_NK.shape[1]] = values_NK
    mine[1, :, : ids_NK.shape[1]] = ids_NK.to(torch.float64)
    theirs_R2NK = group.all_gather(mine.to(logits_NV.device))
    values, ids = (part.movedim(0, 1).flatten(1) for part in theirs_R2NK.unbind(1))
    # Ranks hold rising stretches of the vocabulary and sort their own, so a stable sort by value
    # leaves equals in order of their ids.
    order = values.sort(dim=1, descending=True, stable=True).indices[:, :depth]
    return values.gather(1, order).float(), ids.gather(1, order).long()


def _local_best(logits_NV: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Return a shard's best values and columns, equals in order of their columns."""
    if depth == 1:
        best = logits_NV.max(dim=1, keepdim=True)
        return best.values, best.indices  # the first of equals
    depth = min(depth, logits_NV.shape[1])
    edge = logits_NV.topk(depth, dim=1).values[:, -1:]
    # topk takes any of those equal to the last; a stable sort of all that reach it takes the first.
    reaching = int((logits_NV >= edge).sum(dim=1).max())
    columns = logits_NV.topk(reaching, dim=1).indices.sort(dim=1).values
    values = logits_NV.gather(1, columns)
    order = values.sort(dim=1, descending=True, stable=True).indices[:, :depth]
    return values.gather(1, order), columns.gather(1, order)


def _whole(logits_NV: Tensor, vocab_size: int, group: Group) -> Tensor:
    """Return all columns, [N, vocab_size]: shards differ in width by at most one unit, so pad."""
    if group.size == 1:
        return logits_NV
    widths = group.all_gather(torch.tensor([logits_NV.shape[1]], device=logits_NV.device)).flatten()
    padded = logits_NV.new_full((len(logits_NV), int(widths.max())), -torch.inf)
    padded[:, : logits_NV.shape[1]] = logits_NV
    parts = group.all_gather(padded)
    whole = torch.cat([part[:, : int(width)] for part, width in zip(parts, widths, strict=True)], 1)
    assert whole.shape[1] == vocab_size
    return whole
