"""A worker's step is timed and its bytes are counted on a tiny model."""

import json
from pathlib import Path

import pytest

from cluster.bench.shared_seed_bench import run
from cluster.options.bench_options import BenchSeedsOptions
from runtime.errors import ConfigError
from tests.support.tiny_checkpoint import save_tiny_checkpoint


def options(directory: Path, *, shapes: tuple[str, ...] = ("2x1",)) -> BenchSeedsOptions:
    return BenchSeedsOptions(
        model=str(directory),
        rank=2,
        shapes=shapes,
        wires=("2x3",),
        machines=2,
        length=8,
        repeats=1,
        json=True,
    )


def test_every_shape_and_wire_gets_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(options(save_tiny_checkpoint(tmp_path))) == 0
    found = json.loads(capsys.readouterr().out)
    (step,) = found["steps"]
    assert (step["directions"], step["batch"]) == (2, 1)
    assert step["forward_s"] > 0
    assert step["ratio"] == (step["estimate_s"] + step["apply_s"]) / step["forward_s"]
    (wire,) = found["wires"]
    assert (wire["machines"], wire["directions"]) == (2, 3)
    assert wire["up"] > 3  # a byte for each direction, and what gRPC adds


@pytest.mark.parametrize("shape", ["2", "2by1", "0x1", "2x"])
def test_a_shape_is_two_numbers(tmp_path: Path, shape: str) -> None:
    with pytest.raises(ConfigError, match=f"`shapes` has '{shape}': write pairs as 4x2"):
        run(options(tmp_path, shapes=("1x1", shape)))
