"""Requests go to the engine that caches most of their prompt, unless that engine is busy."""

import pytest

from runtime.gateway.routing import PrefixRouter

SHARED = list(range(100, 164))  # four blocks
IDLE = {0: 0, 1: 0}


def test_a_prompt_goes_to_the_engine_that_had_a_similar_one() -> None:
    router = PrefixRouter(3)
    router.note(1, [*SHARED, 1])
    assert router.choose([*SHARED, 2, 3], {0: 0, 1: 0, 2: 0}) == 1
    assert router.choose([7, 8, 9], {0: 0, 1: 0, 2: 0}) == 0


@pytest.mark.parametrize(
    ("prompt", "chosen"),
    [
        (SHARED, 1),
        (SHARED[:16], 1),
        (SHARED[:15], 0),  # less than a block
        ([*SHARED[:16], 7, *SHARED[16:]], 1),
        ([7, *SHARED], 0),  # the blocks have moved
    ],
)
def test_only_whole_blocks_at_the_beginning_of_a_prompt_count(
    prompt: list[int], chosen: int
) -> None:
    router = PrefixRouter(2)
    router.note(1, SHARED)
    assert router.choose(prompt, IDLE) == chosen


def test_an_idle_engine_gets_new_prompts_and_prompts_of_a_busy_one() -> None:
    router = PrefixRouter(2)
    assert router.choose([1, 2, 3], {0: 2, 1: 1}) == 1
    router.note(0, SHARED)
    assert router.choose(SHARED, IDLE) == 0
    assert router.choose(SHARED, {0: 3, 1: 0}) == 1


def test_a_lost_engine_is_forgotten_and_an_absent_one_never_chosen() -> None:
    router = PrefixRouter(2)
    router.note(1, SHARED)
    assert router.choose(SHARED, {0: 5}) == 0
    assert router.choose(SHARED, IDLE) == 1
    router.forget(1)
    assert router.choose(SHARED, IDLE) == 0
