"""How a cluster is measured: every pair of nodes once, nobody twice at the same time."""

from itertools import combinations

import pytest

from cluster.check import rounds_of_pairs


@pytest.mark.parametrize("num_nodes", [0, 1, 2, 5, 8])
def test_every_pair_is_measured_once_and_nobody_twice_at_a_time(num_nodes: int) -> None:
    names = [f"n{number}" for number in range(num_nodes)]
    rounds = rounds_of_pairs(names)
    for pairs in rounds:
        busy = [name for pair in pairs for name in pair]
        assert len(busy) == len(set(busy))
    measured = [pair for pairs in rounds for pair in pairs]
    assert sorted(measured) == sorted(combinations(names, 2))
    assert len(rounds) <= max(0, 2 * num_nodes - 3)
