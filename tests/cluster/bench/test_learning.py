"""Learning curves of a tiny model by every method, and from where a run was cut."""

import json
import math
from pathlib import Path

import pytest

from cluster.bench.learning import run
from cluster.options.bench_options import BenchLearnOptions
from runtime.errors import ConfigError
from runtime.training.shared_seed.compare import METHODS
from tests.support.tiny_checkpoint import save_tiny_checkpoint

JOB = """
model = "{model}"
out = "unused"
method = "shared-seed"
[data]
train = "{data}"
eval = "{data}"
[data.words]
[optimizer]
steps = 4
batch = 2
lr = 0.03
[lora]
rank = 2
[shared_seed]
directions = 2
eps = 0.05
[workers]
threads = 1
"""


def options(
    folder: Path, *, methods: tuple[str, ...] = METHODS, budget: int = 8, every: int = 4
) -> BenchLearnOptions:
    config, data = folder / "job.toml", folder / "data.jsonl"
    if not config.exists():
        model = save_tiny_checkpoint(folder / "model")
        records = ({"prompt": f"w{n} w{n}", "completion": f" w{2 * n}"} for n in range(6))
        data.write_text("".join(json.dumps(record) + "\n" for record in records))
        config.write_text(JOB.format(model=model, data=data))
    return BenchLearnOptions(
        config=config,
        methods=methods,
        budget=budget,
        every=every,
        tests=3,
        first_lr=0.01,
        out=folder / "curves",
        settings=(),
        json=True,
    )


def test_every_method_has_a_curve_over_the_same_sequences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(options(tmp_path)) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        assert mine[0]["num_rows"] == 0  # where all methods start
        assert mine[-1]["num_rows"] >= 8
        assert mine[0]["measured"]["all"] == 1.0
        assert all(math.isfinite(row["loss"]) and row["loss"] > 0 for row in mine[1:])
    starts = {str(row["measured"]) for row in rows if row["num_rows"] == 0}
    assert len(starts) == 1
    assert (tmp_path / "curves" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_curve_that_was_cut_continues_to_the_same_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, budgets in ((whole, [16]), (parts, [8, 16])):
        folder.mkdir()
        for budget in budgets:
            run(options(folder, methods=("byte", "first-order"), budget=budget, every=8))
    _ = capsys.readouterr()
    for name in ("byte", "first-order"):
        last = [
            json.loads((folder / "curves" / f"{name}.jsonl").read_text().splitlines()[-1])
            for folder in (whole, parts)
        ]
        assert last[0] == last[1]


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    run(options(tmp_path, methods=("byte",)))
    state = tmp_path / "curves" / "byte.npz"
    state.write_bytes(state.read_bytes()[:40])
    with pytest.raises(ConfigError, match=r"byte\.npz is damaged"):
        run(options(tmp_path, methods=("byte",)))


def test_a_method_that_does_not_exist_is_answered_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 'sgd': choose among byte, exact, first-order"):
        run(options(tmp_path, methods=("byte", "sgd")))
