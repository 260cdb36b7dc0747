"""A worker's step is timed and its bytes are counted on a tiny model."""

import json
from pathlib import Path

import pytest

from cluster.bench.shared_seed_bench import run
from cluster.options.bench_options import BenchSeedsOptions
from runtime.errors import ConfigError
from tests.support.tiny_checkpoint import save_tiny_checkpoint


def options(directory: Path, **changes: object) -> BenchSeedsOptions:
    fields: dict[str, object] = {
        "model": str(directory),
        "rank": 2,
        "shapes": ((2, 1),),
        "wires": ((2, 3),),
        "machines": 2,
        "length": 8,
        "repeats": 1,
        "threads": 1,
        "json": True,
    }
    return BenchSeedsOptions(**(fields | changes))  # type: ignore[arg-type]  # a test names real fields


def test_every_shape_and_wire_gets_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(options(save_tiny_checkpoint(tmp_path))) == 0
    found = json.loads(capsys.readouterr().out)
    (step,) = found["steps"]
    assert (step["directions"], step["batch"]) == (2, 1)
    assert step["forward_s"] > 0
    assert step["ratio"] >= 1
    (wire,) = found["wires"]
    assert (wire["machines"], wire["directions"]) == (2, 3)
    assert wire["up"] > 3  # a byte for each direction, and what gRPC adds


@pytest.mark.parametrize("field", ["repeats", "machines", "threads"])
def test_counts_start_at_one(tmp_path: Path, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        run(options(tmp_path, **{field: 0}))
