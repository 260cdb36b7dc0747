"""Recent rounds count most, and a number of rounds is recognized by its decayed sum."""

import pytest

from parallel.decoding.recent_rounds import RecentRounds


def test_a_round_counts_less_with_every_later_one() -> None:
    seen = RecentRounds(0.5)
    for tokens, seconds in ((8, 1.0), (4, 2.0), (2, 4.0)):
        seen.observe(tokens, seconds)
    assert (seen.rounds, seen.tokens) == (1.75, 2 + 4 / 2 + 8 / 4)
    assert seen.expected == 4.0 + 2.0 / 2 + 1.0 / 4


@pytest.mark.parametrize("memory", [0.97, 0.98, 1.0])
def test_so_many_rounds_are_seen_after_about_so_many(memory: float) -> None:
    seen = RecentRounds(memory)
    num = 0
    while not seen.has_seen(10):
        seen.observe(1, 1.0)
        num += 1
    assert 8 <= num <= 10
