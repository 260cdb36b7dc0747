"""Time models by name: drawn, read from a trace, or rejected with what is wrong."""

from pathlib import Path

import numpy as np
import pytest

from runtime.errors import ConfigError
from runtime.training.time_models import time_model


def test_a_trace_is_its_own_cluster(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("1,2,3\n\n2,4,2\n")
    times, num_workers = time_model(
        f"trace:{file}", num_workers=99, num_rounds=99, slope=None, seed=0
    )
    assert (num_workers, times.num_rounds) == (3, 2)
    np.testing.assert_allclose(times.seconds(1, np.full(3, 1 / 3)), [2, 4, 2])
    # Computing is all that they did: twice the load takes twice the usual two seconds.
    np.testing.assert_allclose(times.seconds(0, np.full(3, 2 / 3)), [3, 4, 5])
    times, _ = time_model(f"trace:{file}", num_workers=9, num_rounds=9, slope=0.3, seed=0)
    np.testing.assert_allclose(times.seconds(0, np.full(3, 2 / 3)), [1.1, 2.1, 3.1])


def test_a_model_takes_settings() -> None:
    def seconds(text: str) -> float:
        times, num_workers = time_model(text, num_workers=8, num_rounds=50, slope=None, seed=1)
        share = np.full(num_workers, 1 / num_workers)
        return max(float(times.seconds(number, share).max()) for number in range(50))

    assert seconds("gilbert-elliott:factor=1,jitter=0,work=2,overhead=0.5") == pytest.approx(2.5)
    assert seconds("gilbert-elliott:factor=10,jitter=0") == pytest.approx(10.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n1\n", "round 2 has 1 workers, the first 2"),
        ("1,0\n", "round 1: times must be above 0"),
        ("1,2\n1,nan\n", "round 2: times must be above 0"),
        ("a,b\n1,2\n", "not a table of rounds by workers in seconds"),
        ("\n", "has no rounds"),
    ],
)
def test_a_bad_trace_is_rejected_with_its_round(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        time_model(f"trace:{file}", num_workers=2, num_rounds=2, slope=None, seed=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gilbert-elliott:slow=0", r"slow=0.0: it must be in \(0, 1\]"),
        ("gilbert-elliott:factor=0.5", "factor=0.5: it must not be below 1"),
        ("gilbert-elliott:overhead=0,work=0", "one must be above 0"),
        ("gilbert-elliott:speed=3", "`model` has 'speed': known are slow, fast, factor"),
        ("serverless:work=x", "'work=x': write work=0.5"),
    ],
)
def test_a_bad_model_is_rejected(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        time_model(text, num_workers=2, num_rounds=2, slope=None, seed=0)
