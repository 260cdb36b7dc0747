"""Samples of a step: every epoch sees each sample once, whatever the batch."""

import itertools
from collections import Counter

import pytest

from parallel.training.sampler import (
    MIX_PERIOD,
    EpochOrder,
    dropout_seed,
    mixed_samples,
    split_evenly,
    step_samples,
)


@pytest.mark.parametrize("batch", [1, 3, 5, 7, 20])
def test_an_epoch_sees_every_sample_once(batch: int) -> None:
    drawn = [
        sample
        for step in range(20)
        for sample in step_samples(step, num_samples=7, batch=batch, seed=4)
    ]
    assert len(drawn) == 20 * batch
    whole = len(drawn) // 7 * 7
    for first in range(0, whole, 7):
        assert sorted(drawn[first : first + 7]) == list(range(7))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    def epoch(number: int, seed: int) -> list[int]:
        return step_samples(number, num_samples=50, batch=50, seed=seed)

    assert epoch(0, 1) == epoch(0, 1)
    assert epoch(0, 1) != epoch(1, 1)
    assert epoch(0, 1) != epoch(0, 2)


@pytest.mark.parametrize("window", [1, 4, 10, 23, None])
def test_windows_are_read_one_after_the_other_and_each_is_shuffled(window: int | None) -> None:
    drawn = [
        sample
        for step in range(23)
        for sample in step_samples(step, num_samples=23, batch=4, seed=4, window=window)
    ]
    for first in range(0, len(drawn), 23):
        epoch = drawn[first : first + 23]
        assert sorted(epoch) == list(range(23))
        changes = sum(
            before // (window or 23) != after // (window or 23)
            for before, after in itertools.pairwise(epoch)
        )
        assert changes == -(-23 // (window or 23)) - 1  # no window is left and read again
    orders = {tuple(drawn[first : first + 23]) for first in range(0, len(drawn), 23)}
    assert len(orders) == 4  # of as many epochs


def test_a_window_of_all_samples_has_the_order_of_none() -> None:
    wanted = step_samples(3, num_samples=20, batch=6, seed=1)
    assert step_samples(3, num_samples=20, batch=6, seed=1, window=20) == wanted
    assert step_samples(3, num_samples=20, batch=6, seed=1, window=19) != wanted


def test_any_part_of_an_order_is_found_alone() -> None:
    order = EpochOrder(30, (5, 0), 7)
    whole = order.at(0, 30)
    for first, stop in ((0, 1), (3, 9), (6, 8), (13, 30), (29, 30)):
        assert EpochOrder(30, (5, 0), 7).at(first, stop) == whole[first:stop]


def mixed(num_steps: int, batch: int, *, shares: tuple[float, ...] = (3.0, 1.0)) -> list[int]:
    sizes = (30, 700)[: len(shares)]
    return [
        sample
        for step in range(num_steps)
        for sample in mixed_samples(step, sizes=sizes, shares=shares, batch=batch, seed=5)
    ]


def test_files_are_mixed_in_their_shares_and_each_has_its_own_epochs() -> None:
    drawn = mixed(20, 100)
    first = [sample for sample in drawn if sample < 30]
    second = [sample for sample in drawn if sample >= 30]
    assert len(first) == 2 * 750
    for start in range(0, len(first), 30):
        assert sorted(first[start : start + 30]) == list(range(30))
    assert max(Counter(second).values()) == 1
    assert 60 < sum(sample < 30 for sample in drawn[:100]) < 90  # mixed within a period


def test_the_order_of_a_mix_does_not_depend_on_the_batch() -> None:
    assert mixed(20, 100) == mixed(80, 25)
    assert mixed(4, 500) != mixed(4, 500, shares=(1.0, 1.0))


def test_a_mix_is_read_in_windows_of_each_file() -> None:
    def drawn(window: int | None) -> list[int]:
        return [
            sample
            for step in range(10)
            for sample in mixed_samples(
                step, sizes=(30, 700), shares=(3, 1), batch=100, seed=5, window=window
            )
        ]

    found = [sample - 30 for sample in drawn(50) if sample >= 30]
    assert len(set(found)) == len(found)
    changes = sum(a // 50 != b // 50 for a, b in itertools.pairwise(found))
    assert changes == -(-len(found) // 50) - 1
    assert drawn(700) == mixed(10, 100)


def test_shares_that_leave_a_remainder_fill_the_period() -> None:
    drawn = mixed_samples(0, sizes=(9, 9, 9), shares=(1, 1, 1), batch=MIX_PERIOD, seed=0)
    assert sorted(Counter(sample // 9 for sample in drawn).values()) == [333, 333, 334]


def test_dropout_draws_from_step_chunk_and_piece() -> None:
    places = [(1, 0, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1)]
    seeds = [dropout_seed(*place) for place in places]
    assert len(set(seeds)) == len(places)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert dropout_seed(1, 0, 0) == seeds[0]


def test_parts_are_consecutive_and_differ_by_one_at_most() -> None:
    assert split_evenly(list(range(7)), 3) == [[0, 1, 2], [3, 4], [5, 6]]
    assert split_evenly([1, 2], 4) == [[1], [2], [], []]
