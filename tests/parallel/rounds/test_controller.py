"""The draft-length controller: the best length for known costs, and how it learns them."""

import pytest

from parallel.decoding.rng import Purpose, uniform
from parallel.decoding.types import DecodeMode, RngKey
from parallel.rounds.controller import (
    AcceptanceEstimate,
    DraftLengthController,
    best_draft_length,
)

PEARL, SPECULATIVE = DecodeMode.PEARL, DecodeMode.SPECULATIVE


@pytest.mark.parametrize(("alpha", "lengths"), [(0.8, (6, 4, 2, 1, 0)), (0.5, (3, 2, 1, 0, 0))])
def test_drafts_shorten_as_the_batch_grows(alpha: float, lengths: tuple[int, ...]) -> None:
    """SmartSpec's toy: a round of k drafts costs B (k + 1) + 30 + 1.5 k."""
    for batch, expected in zip((1, 4, 16, 64, 256), lengths, strict=True):
        costs = {
            "target_s": lambda positions: positions + 30.0,
            "draft_s": lambda steps: 1.5 * steps,
        }
        for alphas, sharing in (([alpha] * batch, None), ([alpha], batch)):
            best = best_draft_length(SPECULATIVE, alphas, max_length=8, batch=sharing, **costs)
            assert best == expected


def test_sequences_of_different_acceptance_share_a_length_between_theirs() -> None:
    def best(*alphas: float) -> int:
        return best_draft_length(
            SPECULATIVE,
            alphas,
            max_length=12,
            target_s=lambda positions: 30.0 + positions,
            draft_s=lambda steps: 1.5 * steps,
        )

    assert best(0.3, 0.3) < best(0.3, 0.9) < best(0.9, 0.9)


def test_pearl_drafts_for_as_long_as_the_target_works() -> None:
    for ratio in (3, 5, 8):
        best = best_draft_length(
            PEARL,
            [0.9],
            max_length=16,
            target_s=lambda _: 1.0,
            draft_s=lambda steps, ratio=ratio: steps / ratio,  # type: ignore[misc]  # bound default
        )
        assert best == ratio


def test_acceptance_is_learned_and_unlearned() -> None:
    estimate = AcceptanceEstimate(0.7, 6.0)
    assert estimate.alpha == pytest.approx(0.7)
    for _ in range(200):
        estimate.observe(9, rejected=True)
    assert estimate.alpha == pytest.approx(0.9, abs=0.01)
    for _ in range(200):
        estimate.observe(0, rejected=True)
    assert estimate.alpha < 0.05


def test_acceptance_is_learned_by_position() -> None:
    """A drafter that copies: the first token of a copy fails half the time, the others never."""
    estimate = AcceptanceEstimate(0.7, 6.0)
    for number in range(400):
        estimate.observe(4 if number % 2 else 0, rejected=number % 2 == 0)
    first, *others = estimate.by_position(6)
    assert first == pytest.approx(0.5, abs=0.05)
    assert min(others) > 0.95
    assert len(others) == 5


def test_copies_are_drafted_longer_than_their_mean_acceptance_says() -> None:
    def best(alpha: float | list[float]) -> int:
        return best_draft_length(
            SPECULATIVE,
            [alpha],
            max_length=8,
            target_s=lambda positions: 30.0 + 1.5 * positions,
            draft_s=lambda _: 0.1,
        )

    assert best([0.3, 0.9, 0.98, 0.98, 0.98, 0.98, 0.98, 0.98]) == 8
    assert best([0.3] * 8) == best(0.3) < 4


def drive(
    controller: DraftLengthController,
    *,
    alpha: float,
    num_rounds: int,
    draft_step_s: float = 1.0,
    mode: DecodeMode = SPECULATIVE,
    request: int = 1,
) -> list[int]:
    """Run the controller over rounds whose costs and acceptance are given."""
    chosen = []
    for number in range(num_rounds):
        length = controller.choose(request, mode, batch=1)
        chosen.append(length)
        controller.observe_forward(length + 1, 10.0 + 0.1 * length)
        if length:
            controller.observe_draft(length, draft_step_s * length)
            key = RngKey(seed=request, request=number)
            hits = [uniform(key, 0, Purpose.ACCEPT, index=i) < alpha for i in range(length)]
            accepted = (*hits, False).index(False)
            controller.observe_verdict(request, accepted, rejected=accepted < length)
    return chosen


@pytest.mark.parametrize("mode", [PEARL, SPECULATIVE])
def test_it_comes_to_the_best_length(mode: DecodeMode) -> None:
    best = best_draft_length(
        mode,
        [0.85],
        max_length=8,
        target_s=lambda positions: 9.9 + 0.1 * positions,
        draft_s=lambda steps: 1.0 * steps,
    )
    chosen = drive(DraftLengthController(max_length=8), alpha=0.85, num_rounds=300, mode=mode)
    late = chosen[100:]
    assert abs(sorted(late)[len(late) // 2] - best) <= 1


def test_first_rounds_explore() -> None:
    chosen = drive(DraftLengthController(max_length=8), alpha=0.8, num_rounds=4)
    assert chosen[0] == 4
    assert len(set(chosen)) > 2


def test_useless_drafts_are_given_up_but_tried_again() -> None:
    controller = DraftLengthController(max_length=8)
    chosen = drive(controller, alpha=0.02, num_rounds=200, draft_step_s=4.0)
    late = chosen[100:]
    assert 0 < sum(length > 0 for length in late) <= 5
    recovered = drive(controller, alpha=0.98, num_rounds=2000, draft_step_s=0.1)
    assert sum(recovered[-50:]) / 50 > 3


def test_plain_decoding_is_never_drafted_for_and_max_length_holds() -> None:
    controller = DraftLengthController(max_length=3)
    assert controller.choose(1, DecodeMode.AUTOREGRESSIVE, batch=1) == 0
    assert max(drive(controller, alpha=0.99, num_rounds=60)) == 3


def test_a_forgotten_request_starts_over_from_what_all_requests_taught() -> None:
    controller = DraftLengthController(max_length=8)
    first = drive(controller, alpha=0.95, num_rounds=100)
    controller.forget(1)
    controller.forget(2)  # never seen: nothing to forget
    again = drive(controller, alpha=0.95, num_rounds=5)
    assert again[:4] == first[:4]
    assert again[4] >= 4


def test_same_observations_give_the_same_choices() -> None:
    runs = [drive(DraftLengthController(max_length=8), alpha=0.6, num_rounds=80) for _ in range(2)]
    assert runs[0] == runs[1]


def test_trees_are_tested_now_and_then_where_they_never_pay() -> None:
    """Times that were taken while the machine was busy must not last forever."""
    controller = DraftLengthController(max_length=8)
    for size in (1, 3, 6, 12, 25):
        controller.observe_forward(size, 0.01 * size)  # a row costs as much as a forward
    gains = [0.6] + [0.3] * 11
    found = [controller.worth(1, gains, batch=1) for _ in range(100)]
    assert sorted(set(found)) == [0, 2, 5, 11]
    assert sum(num > 0 for num in found) == 4
    for size in (3, 6, 12):
        for _ in range(20):
            controller.observe_forward(size, 0.011)
    assert controller.worth(1, gains, batch=1) > 4
    assert controller.worth(1, [], batch=1) == 0


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), float("-inf"), -1.0, 0.0])
@pytest.mark.parametrize("mode", [PEARL, SPECULATIVE])
def test_times_that_cannot_be_change_nothing(seconds: float, mode: DecodeMode) -> None:
    def lengths(*, disturbed: bool) -> list[int]:
        controller = DraftLengthController(max_length=8)
        chosen = []
        for index in range(40):
            if disturbed:
                controller.observe_forward(1 + index % 30, seconds)
                if seconds:  # a look-up may take no time that a clock can tell
                    controller.observe_draft(3, seconds, width=1 + index % 2)
            controller.observe_forward(1 + index % 5, 0.01 + 0.001 * (index % 5))
            controller.observe_draft(1 + index % 4, 0.001 * (1 + index % 4))
            controller.observe_verdict(1, 2, rejected=True)
            chosen.append(controller.choose(1, mode, batch=2, width=1))
            chosen.append(controller.worth(1, [0.9, 0.5, 0.2], batch=2))
            assert controller.min_gain() >= 0
        return chosen

    assert lengths(disturbed=True) == lengths(disturbed=False)


def test_a_clock_that_does_not_advance_ends_nothing() -> None:
    controller = DraftLengthController(max_length=8)
    for index in range(60):
        controller.observe_forward(1 + index % 5, 0.0)
        controller.observe_draft(4, 0.0)
        assert controller.choose(1, SPECULATIVE, batch=1) in range(9)
        assert controller.worth(1, [0.9, 0.5], batch=1) in range(3)
