"""Times of a simulated cluster's workers by name: drawn at random, or measured."""

import csv
import math
from pathlib import Path

import numpy as np

from parallel.training.gradient_coding.patterns import GilbertElliott
from parallel.training.gradient_coding.worker_times import Seconds, SlowStates, TimeModel, Trace
from runtime.errors import ConfigError
from runtime.files.documents import read_text

_GILBERT_ELLIOTT = {
    "slow": 0.05, "fast": 0.9, "factor": 3.0, "tail": 0.0, "overhead": 0.05, "work": 1.0,
    "jitter": 0.05,
}  # fmt: skip
_SERVERLESS = _GILBERT_ELLIOTT | {
    "slow": 0.048, "factor": 1.55, "tail": 0.2, "overhead": 1.0, "work": 0.0159, "jitter": 0.3,
}  # fmt: skip


def time_model(
    text: str, *, num_workers: int, num_rounds: int, slope: float | None, seed: int
) -> tuple[TimeModel, int]:
    """Return the time model of a name, and its number of workers.

    Args:
        text: gilbert-elliott or serverless, with or without settings, or trace:FILE.csv.
        num_workers: number of workers of a random model; a trace has its own.
        num_rounds: number of rounds of a random model.
        slope: seconds that a unit of load adds to a trace; None assumes that computing is all that
            its workers did.
        seed: random seed.

    Raises:
        ConfigError: there is no such model, or not with these settings.
    """
    kind, _, rest = text.partition(":")
    if kind == "trace":
        times = _read_trace(Path(rest))
        if slope is None:
            slope = times.shape[1] * float(np.median(times))
        if not 0 <= slope < math.inf:
            raise ConfigError(f"`slope` is {slope}: it must not be below 0")
        return Trace(times, slope), times.shape[1]
    presets = {"gilbert-elliott": _GILBERT_ELLIOTT, "serverless": _SERVERLESS}
    if kind not in presets:
        raise ConfigError(
            f"`model` is {text!r}: write gilbert-elliott[:slow=0.05,fast=0.9,factor=3], "
            "serverless, or trace:FILE.csv"
        )
    values = dict(presets[kind])
    for part in rest.split(",") if rest else []:
        name, _, text = part.partition("=")
        if name not in values:
            raise ConfigError(f"`model` has {name!r}: known are {', '.join(values)}")
        try:
            values[name] = float(text)
        except ValueError as error:
            raise ConfigError(f"`model` has {part!r}: write {name}=0.5, for example") from error
    for name, value in values.items():
        if name in ("slow", "fast") and not 0 < value <= 1:
            raise ConfigError(f"`model` has {name}={value}: it must be in (0, 1]")
        least = 1 if name == "factor" else 0
        if not least <= value < math.inf:
            raise ConfigError(f"`model` has {name}={value}: it must not be below {least}")
    if values["overhead"] + values["work"] == 0:
        raise ConfigError("`model` has neither overhead nor work: one must be above 0")
    chain = GilbertElliott(p_slow=values.pop("slow"), p_fast=values.pop("fast"))
    made = SlowStates(
        chain,
        num_rounds=num_rounds,
        num_workers=num_workers,
        seed=seed,
        **values,
    )
    return made, num_workers


def _read_trace(file: Path) -> Seconds:
    lines = read_text(file).splitlines()
    try:
        rows = [[float(value) for value in row] for row in csv.reader(lines) if row]
    except (csv.Error, ValueError) as error:
        raise ConfigError(
            f"{file} is not a table of rounds by workers in seconds: {error}"
        ) from error
    if not rows:
        raise ConfigError(f"`model` trace: {file} has no rounds")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise ConfigError(
                f"`model` trace: {file}, round {number} has {len(row)} workers, the first "
                f"{len(rows[0])}"
            )
        if not all(0 < value < math.inf for value in row):
            raise ConfigError(f"`model` trace: {file}, round {number}: times must be above 0")
    return np.array(rows)
