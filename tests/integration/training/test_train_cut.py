"""Jobs that are cut: by signals, by Ray's end, by a user; each continues to the same bits."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from tests.support.integration.serving_process import ROOT
from tests.support.tiny_checkpoint import save_tiny_checkpoint

STEPS = 120
CUT_AT = 20


@pytest.fixture
def job(tmp_path: Path) -> Path:
    words = [
        {"prompt": f"w{a} w{b}", "completion": f" w{a + b}"} for a in range(8) for b in range(8)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(word) + "\n" for word in words))
    model = save_tiny_checkpoint(tmp_path / "tiny")
    file = tmp_path / "job.toml"
    file.write_text(
        f'model = "{model}"\nout = "run"\n[data]\ntrain = "data.jsonl"\n'
        f"[lora]\ndropout = 0.1\n[optimizer]\nsteps = {STEPS}\nbatch = 8\n[workers]\ncount = 2\n"
        "[faults]\nslow = 0.1\n"
    )
    return file


class Training:
    """A `paceline train` process, which ends with the block that uses it."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "cluster.cli", "train", *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # its Ray ends with it
            self.process.wait(timeout=60)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def wait_for(self, out: Path, step: int) -> None:
        deadline = time.monotonic() + 300  # the start alone takes a minute on a busy machine
        while steps_of(out) < step:
            assert self.process.poll() is None, self.printed()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def printed(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def end(self) -> int:
        return self.process.wait(timeout=120)


def steps_of(out: Path) -> int:
    metrics = out / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster.cli", "train", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


def assert_same(a: Path, b: Path) -> None:
    """Compare all that was learned, and all losses on the way."""
    mine, other = (load_file(out / "final" / "adapter_model.safetensors") for out in (a, b))
    assert mine.keys() == other.keys()
    assert all(np.array_equal(mine[name], other[name]) for name in mine)
    losses = [
        [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
        for out in (a, b)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_was_cut_continues_to_the_same_bits(job: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "run"
    assert call(str(job), "--set", f"out={whole}").returncode == 0
    for number, name in enumerate(("the driver", "raylet"), start=1):
        with Training(str(job)) as training:
            training.wait_for(cut, number * CUT_AT)
            driver = psutil.Process(training.process.pid)
            below = driver.children(recursive=True)
            ours = named("ray::Train", below)
            victims = [driver] if name == "the driver" else named(name, below)
            assert len(victims) == 1
            victims[0].send_signal(signal.SIGKILL)
            assert training.end() != 0
        assert number * CUT_AT <= steps_of(cut) < STEPS
        _, left = psutil.wait_procs(ours, timeout=30)
        assert not left, f"{name} left {left}"
    _cancel(cut)
    _terminate(cut)
    settings = ("faults.slow=0", "workers.count=3")
    assert call("resume", str(cut), *(f"--set={text}" for text in settings)).returncode == 0
    done = json.loads(call("status", str(cut), "--json").stdout)
    assert (done["running"], done["done"], done["step"]) == (False, True, STEPS)
    assert_same(whole, cut)


def named(start: str, processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those of the processes that still run and are called so."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [process] if process.name().startswith(start) else []
    return found


def _cancel(out: Path) -> None:
    """Resume a job slowly, and cancel it."""
    before = steps_of(out)
    slow = ("--set=faults.slow=0.95", "--set=faults.factor=60")
    with Training("resume", str(out), *slow) as training:
        training.wait_for(out, before + 2)
        second = call("resume", str(out))
        assert second.returncode == 2
        assert f"process {training.process.pid} trains in {out}" in second.stderr
        assert call("cancel", str(out)).returncode == 0
        assert training.end() == 1
    assert before < steps_of(out) < STEPS
    again = call("cancel", str(out))
    assert again.returncode == 2
    assert "no job runs in" in again.stderr
    assert "train resume" in call("status", str(out)).stdout


def _terminate(out: Path) -> None:
    """Resume a job, and let SIGTERM end it after its step."""
    before = steps_of(out)
    slow = ("--set=faults.slow=0.5", "--set=faults.factor=20")
    with Training("resume", str(out), *slow) as training:
        training.wait_for(out, before + 1)
        training.process.send_signal(signal.SIGTERM)
        _, printed = training.process.communicate(timeout=120)
    assert training.process.returncode == 1
    assert "stopping after this step" in printed
    assert "train resume" in printed
    assert "Traceback" not in printed
    assert before < steps_of(out) < STEPS


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    for verb in ("resume", "status"):
        done = call(verb, str(tmp_path))
        assert done.returncode == 2
        assert "holds no training job" in done.stderr
    assert "none does not exist: name a directory" in call("resume", str(tmp_path / "none")).stderr
