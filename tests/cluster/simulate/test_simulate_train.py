"""Schemes in virtual time: names, comparison on the same worker times, and plots."""

import json
from pathlib import Path

import pytest

from cluster.options.simulate_options import SimulateTrainOptions
from cluster.simulate.simulate_train import parse_scheme, run
from runtime.errors import ConfigError


def options(
    *,
    schemes: tuple[str, ...] = ("uncoded", "gc-1", "m-sgc-1-2-1"),
    rounds: int = 40,
    workers: int = 4,
    patience: float = 1.0,
    plot: Path | None = None,
) -> SimulateTrainOptions:
    return SimulateTrainOptions(
        workers=workers,
        model="gilbert-elliott",
        schemes=schemes,
        rounds=rounds,
        patience=patience,
        slope=None,
        seed=1,
        plot=plot,
        json=True,
    )


def test_schemes_are_compared_on_the_same_times(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plot = tmp_path / "schemes.png"
    assert run(options(plot=plot)) == 0
    first = capsys.readouterr().out
    found = json.loads(first)
    assert found["config"]["workers"] == 4
    assert [row["scheme"] for row in found["rows"]] == ["uncoded", "gc-1", "m-sgc-1-2-1"]
    assert [row["is_exact"] for row in found["rows"]] == [True, True, True]
    assert found["rows"][0]["load"] < found["rows"][1]["load"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    run(options())
    assert capsys.readouterr().out == first  # the same seed, the same times


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (options(schemes=("uncoded", "best")), "'best': choose among uncoded"),
        (options(schemes=("m-sgc-1-2",)), "takes 3 number"),
    ],
)
def test_options_that_cannot_work_are_rejected(changed: SimulateTrainOptions, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(changed)


def test_a_queue_scheme_needs_one_number() -> None:
    with pytest.raises(ConfigError, match="as in pull-4"):
        parse_scheme("pull", 4, 1.0)
