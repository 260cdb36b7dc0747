"""Samples of a step: every epoch sees each sample once, whatever the batch."""

import pytest

from parallel.training.sampler import dropout_seed, split_evenly, step_samples


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


def test_dropout_draws_from_step_chunk_and_piece() -> None:
    places = [(1, 0, 0, 0), (2, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1)]
    seeds = [dropout_seed(*place) for place in places]
    assert len(set(seeds)) == len(places)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert dropout_seed(1, 0, 0) == seeds[0]


def test_parts_are_consecutive_and_differ_by_one_at_most() -> None:
    assert split_evenly(list(range(7)), 3) == [[0, 1, 2], [3, 4], [5, 6]]
    assert split_evenly([1, 2], 4) == [[1], [2], [], []]
