"""The learning rate of each step, against transformers' schedules after the warm-up."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    get_cosine_schedule_with_warmup,
    get_cosine_with_hard_restarts_schedule_with_warmup,
    get_inverse_sqrt_schedule,
    get_linear_schedule_with_warmup,
)

from parallel.training.learning_rate import Schedule, learning_rate

NUM_STEPS, RISING = 100, 20


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]),
    ],
)
def test_a_rate_rises_in_the_warm_up_and_then_follows_its_schedule(
    schedule: Schedule, rates: list[float]
) -> None:
    found = [
        learning_rate(step, num_steps=6, peak=1.0, warmup=0.3, schedule=schedule)
        for step in range(6)
    ]
    assert found == pytest.approx(rates)  # a warm-up of 30% of six steps is two steps


def test_a_run_of_warm_up_alone_ends_at_its_peak() -> None:
    rates = [
        learning_rate(step, num_steps=4, peak=2.0, warmup=1.0, schedule="linear")
        for step in range(4)
    ]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0])


@pytest.mark.parametrize(
    ("schedule", "cycles", "reference"),
    [
        ("linear", 1, get_linear_schedule_with_warmup),
        ("cosine", 1, get_cosine_schedule_with_warmup),
        ("cosine-restarts", 1, get_cosine_with_hard_restarts_schedule_with_warmup),
        ("cosine-restarts", 3, get_cosine_with_hard_restarts_schedule_with_warmup),
        ("inverse-sqrt", 1, get_inverse_sqrt_schedule),
    ],
)
@pytest.mark.parametrize("rising", [0, RISING])
def test_schedules_are_those_of_transformers(
    schedule: Schedule, cycles: int, reference: Callable[..., Any], rising: int
) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    settings: dict[str, int] = {"num_warmup_steps": rising}
    if schedule != "inverse-sqrt":
        settings["num_training_steps"] = NUM_STEPS
    if schedule == "cosine-restarts":
        settings["num_cycles"] = cycles
    theirs = reference(optimizer, **settings)
    for step in range(NUM_STEPS):
        if step >= rising:
            ours = learning_rate(
                step,
                num_steps=NUM_STEPS,
                peak=0.3,
                warmup=rising / NUM_STEPS,
                schedule=schedule,
                cycles=cycles,
            )
            assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        theirs.step()
