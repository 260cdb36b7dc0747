"""Scores gathered from shards equal those of the whole vocabulary."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from parallel.decoding.score_row import ScoreRow
from parallel.group import SoloGroup
from parallel.model.sharding import padded_range
from parallel.model.vocab import gather_scores
from tests.support.tiny_transformer import RankThread, on_ranks


def best(row: Tensor, count: int) -> tuple[list[int], list[float]]:
    """The plain rule: by value, then by id."""
    order = sorted(range(len(row)), key=lambda i: (-float(row[i]), i))[:count]
    return order, [float(row[i]) for i in order]


def check(rows: list[ScoreRow], logits: Tensor, wanted: list[int | None]) -> None:
    assert len(rows) == len(wanted)
    for row, full, count in zip(rows, logits, wanted, strict=True):
        if count is None:
            assert row.ids is None
            assert torch.equal(row.logits, full)
        else:
            ids, values = best(full, count)
            assert row.ids is not None
            assert row.ids.tolist() == ids
            assert row.logits.tolist() == values
            assert row.logits.dtype == torch.float32
            assert row.ids.dtype == torch.int64


def sharded(
    logits: Tensor, wanted: list[int | None], size: int
) -> list[tuple[list[ScoreRow], int]]:
    def one(group: RankThread) -> tuple[list[ScoreRow], int]:
        first, stop = padded_range(logits.shape[1], size, group.rank)
        rows = gather_scores(logits[:, first:stop], first, logits.shape[1], wanted, group)
        return rows, group.num_gathers

    return on_ranks(size, one)


@settings(max_examples=40, deadline=None)
@given(
    vocab_size=st.integers(4, 70),
    size=st.integers(1, 4),
    wanted=st.lists(st.none() | st.integers(1, 5), min_size=1, max_size=4),
    levels=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_sharded_scores_equal_a_sort_of_the_whole_vocabulary(
    vocab_size: int, size: int, wanted: list[int | None], levels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(levels, (len(wanted), vocab_size), generator=generator).float()  # ties
    wanted = [None if count is None else min(count, vocab_size) for count in wanted]
    for rows, num_gathers in sharded(logits, wanted, size):
        check(rows, logits, wanted)
        assert num_gathers <= (None in wanted) + any(wanted)


def test_one_rank_needs_no_exchange() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0], [0.0, 5.0, 4.0, 5.0]])
    check(gather_scores(logits, 0, 4, [3, None], SoloGroup()), logits, [3, None])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_equal_logits_leave_the_lowest_ids(count: int) -> None:
    logits = torch.zeros(1, 5000)
    (row,) = gather_scores(logits, 0, 5000, [count], SoloGroup())
    assert row.ids is not None
    assert row.ids.tolist() == list(range(count))


def test_logits_that_are_no_numbers_stay_visible() -> None:
    logits = torch.tensor([[1.0, float("nan"), 2.0, 0.5]])
    (row,) = gather_scores(logits, 0, 4, [2], SoloGroup())
    assert row.logits.isnan().any()
    assert len(row.logits) == 2


def test_candidates_for_another_number_of_rows_are_rejected() -> None:
    with pytest.raises(ValueError, match="2 rows of logits for 1 numbers of candidates"):
        gather_scores(torch.zeros(2, 4), 0, 4, [1], SoloGroup())
