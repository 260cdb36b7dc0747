"""What the numbers of a run say: the best evaluation, the last gain, divergence."""

import math

import pytest

from parallel.training.run_history import LONG, Measured, RunHistory


def history(name: str, *values: float, first: int = 10) -> RunHistory:
    """Return a run that is evaluated every ten steps."""
    found = RunHistory()
    for step in range(1, first * len(values) + 1):
        measured = {name: values[step // first - 1]} if step % first == 0 else {}
        found.add({"step": step, "loss": 1.0} | measured)
    return found


def test_the_best_is_the_lowest_loss_or_the_highest_accuracy_and_the_first_of_equals() -> None:
    assert RunHistory().best is None
    values = (0.5, 0.25, 0.75, 0.25, 0.75)
    assert history("eval_loss", *values).best == Measured(step=20, name="eval_loss", value=0.25)
    assert history("accuracy", *values).best == Measured(step=30, name="accuracy", value=0.75)
    assert history("reward", *values).best == Measured(step=30, name="reward", value=0.75)


def test_preferences_are_judged_by_their_loss() -> None:
    lines = [
        {"step": step, "loss": 1.0, "accuracy": 0.5 + step, "eval_loss": 0.6 + step}
        for step in (1, 2)
    ]
    best = RunHistory(lines).best
    assert best is not None
    assert (best.name, best.step) == ("eval_loss", 1)


def test_small_gains_add_up_and_smaller_ones_do_not_count() -> None:
    found = history("accuracy", 0.5, 0.52, 0.54, 0.56, 0.57, 0.58)
    last = found.last_gain(0.05)
    assert last is not None
    assert (last.step, found.evaluations_since(last)) == (40, 2)
    every = found.last_gain(0.0)
    assert every is not None
    assert every.step == 60


def test_a_run_stalls_after_evaluations_without_gain() -> None:
    found = history("eval_loss", 0.5, 0.4, 0.4, 0.45)
    assert [found.has_stalled(patience, 0.0) for patience in (1, 2, 3, None)] == [
        True, True, False, False,
    ]  # fmt: skip
    assert found.has_stalled(3, 0.2)
    assert not RunHistory().has_stalled(1, 0.0)


def run(*losses: float | None) -> RunHistory:
    return RunHistory({"step": step, "loss": loss} for step, loss in enumerate(losses, start=1))


@pytest.mark.parametrize("start", [0.01, 0.7, 3.0])
def test_a_run_diverges_if_its_loss_stays_far_above_its_start(start: float) -> None:
    far = 2 * start + 0.6
    calm = [start] * 30
    assert not run(*calm).is_diverging
    assert not run(*calm, *[far] * (LONG - 1)).is_diverging
    assert run(*calm, *[far] * LONG).is_diverging
    assert not run(*calm, *[far] * LONG, start).is_diverging
    assert not run(*calm, *[1.9 * start + 0.4] * 50).is_diverging
    found = run(*calm, None, math.inf, *[far] * LONG)  # skipped steps
    assert found.is_diverging
    assert found.start == pytest.approx(start)
