"""Verbs that talk to a server, and errors of a job file, load neither torch nor Ray."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "ray", "transformers", "numpy", "safetensors", "prometheus_client"}
PROGRAM = """
import runpy, sys
try:
    runpy.run_module("cluster.cli", run_name="__main__", alter_sys=True)
finally:
    print(*{name.partition(".")[0] for name in sys.modules})
"""


@pytest.fixture(scope="module")
def closed_address() -> str:
    """Return an address that no server listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["client", "Hello", "--patience", "0"],
        ["top", "--once"],
        ["admin", "status"],
        ["admin", "drain"],
        ["admin", "drafter", "none"],
        ["admin", "drafters", "2"],
    ],
    ids=" ".join,
)
def test_a_verb_that_talks_to_a_server_loads_no_heavy_library(
    arguments: list[str], closed_address: str
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments, "--server", closed_address],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONUTF8": "1"},
        timeout=120,
        check=False,
    )
    assert run.returncode == 1
    assert f"{closed_address}: UNAVAILABLE" in run.stderr
    loaded = set(run.stdout.split())
    assert "grpc" in loaded
    assert not HEAVY & loaded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = 1 2\n", "not TOML"),
        ('model = "m"\nout = "run"\n[optimiser]\nlr = 1\n', "did you mean `optimizer`?"),
        ('model = "m"\nout = "run"\n[optimizer]\nlr = nan\n', "optimizer.lr is nan"),
    ],
)
def test_a_mistake_in_a_job_file_is_rejected_before_a_heavy_library_is_loaded(
    text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "job.toml"
    file.write_text(text)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, "train", str(file)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONUTF8": "1"},
        timeout=120,
        check=False,
    )
    assert run.returncode == 2
    assert message.replace("`", "") in run.stderr.replace("`", "")
    assert not (HEAVY - {"numpy"}) & set(run.stdout.split())
