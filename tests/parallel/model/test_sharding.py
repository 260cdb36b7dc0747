"""Every head, column and token belongs to a rank, and no rank is idle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel.model.sharding import UNIT, even_range, head_shard, padded_range


def test_smollm2_splits_unevenly_over_two_ranks() -> None:
    shards = [head_shard(9, 3, 2, rank) for rank in range(2)]
    assert [(s.num_query, s.num_kv) for s in shards] == [(6, 2), (3, 1)]


def test_smollm2_splits_evenly_over_three_ranks() -> None:
    shards = [head_shard(9, 3, 3, rank) for rank in range(3)]
    assert [(s.query, s.kv) for s in shards] == [
        ((0, 3), (0, 1)),
        ((3, 6), (1, 2)),
        ((6, 9), (2, 3)),
    ]


def test_more_ranks_than_kv_heads_share_them() -> None:
    shards = [head_shard(9, 3, 4, rank) for rank in range(4)]
    assert [s.kv for s in shards] == [(0, 1), (0, 1), (1, 2), (2, 3)]
    assert [s.query for s in shards] == [(0, 2), (2, 3), (3, 6), (6, 9)]


@given(kv=st.integers(1, 8), group=st.integers(1, 8), data=st.data())
def test_each_query_head_has_one_rank_that_also_holds_its_kv_head(
    kv: int, group: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, kv * group))
    owners: list[int] = []
    for rank in range(size):
        shard = head_shard(kv * group, kv, size, rank)
        assert shard.num_query > 0
        assert shard.num_query % shard.num_kv == 0
        per_kv = shard.num_query // shard.num_kv
        for place, head in enumerate(range(*shard.query)):
            assert shard.kv[0] + place // per_kv == head // group  # as attention pairs them
        owners += range(*shard.query)
    assert owners == list(range(kv * group))


def test_more_ranks_than_query_heads_are_rejected() -> None:
    with pytest.raises(ValueError, match="9 query heads split over at most 9 ranks, not over 10"):
        head_shard(9, 3, 10, 0)


@pytest.mark.parametrize("kv", [1, 3])
def test_a_rank_outside_the_group_is_rejected(kv: int) -> None:
    with pytest.raises(ValueError, match="rank 2 is not below the size 2"):
        head_shard(9, kv, 2, 2)


@given(total=st.integers(0, 500), size=st.integers(1, 12), multiple=st.integers(1, 32))
def test_stretches_follow_each_other_and_differ_by_one_unit(
    total: int, size: int, multiple: int
) -> None:
    parts = [even_range(total, size, rank, multiple) for rank in range(size)]
    assert [a for a, _ in parts] == [0, *(b for _, b in parts[:-1])]
    assert parts[-1][1] == total
    widths = [b - a for a, b in parts]
    assert max(widths) - min(widths) <= multiple + (multiple if total % multiple else 0)


@given(total=st.integers(1, 500), data=st.data())
def test_padded_stretches_leave_no_rank_idle(total: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, total))
    parts = [padded_range(total, size, rank) for rank in range(size)]
    assert all(a < b for a, b in parts)
    assert [i for a, b in parts for i in range(a, b)] == list(range(total))
    assert max(b - a for a, b in parts) <= total // size + UNIT  # what vocab.py relies on


def test_more_ranks_than_columns_are_rejected() -> None:
    with pytest.raises(ValueError, match="3 columns split over at most 3 ranks, not over 4"):
        padded_range(3, 4, 0)
