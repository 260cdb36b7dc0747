"""Requests go where most of their prompt was read before, unless that engine is busy."""

from runtime.gateway.routing import PrefixRouter

SHARED = list(range(100, 164))  # four blocks


def test_a_prompt_goes_where_one_like_it_went() -> None:
    router = PrefixRouter(3)
    router.note(1, [*SHARED, 1])
    assert router.choose([*SHARED, 2, 3], {0: 0, 1: 0, 2: 0}) == 1
    assert router.shared_tokens(1, [*SHARED, 2, 3]) == 64
    assert router.shared_tokens(0, SHARED) == 0


def test_only_what_prompts_begin_with_counts() -> None:
    router = PrefixRouter(2)
    router.note(1, SHARED)
    assert router.shared_tokens(1, [7, *SHARED]) == 0
    assert router.shared_tokens(1, [*SHARED[:16], 7, *SHARED[16:]]) == 16


def test_the_least_busy_one_gets_what_is_new_and_what_is_not_worth_waiting_for() -> None:
    router = PrefixRouter(2)
    assert router.choose([1, 2, 3], {0: 2, 1: 1}) == 1
    router.note(0, SHARED)
    assert router.choose(SHARED, {0: 0, 1: 0}) == 0
    assert router.choose(SHARED, {0: 3, 1: 0}) == 1


def test_a_lost_engine_is_forgotten_and_an_absent_one_never_chosen() -> None:
    router = PrefixRouter(2)
    router.note(0, SHARED)
    assert router.choose(SHARED, {1: 5}) == 1
    router.forget(0)
    assert router.shared_tokens(0, SHARED) == 0
