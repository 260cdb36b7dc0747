"""Shared-seed jobs on real actors and processes: after any death, all replicas are the same."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from runtime.training.shared_seed.seed_log import read_log
from tests.support.integration.serving_process import ROOT
from tests.support.models import smollm2_directory
from tests.support.tiny_checkpoint import save_tiny_checkpoint

SST2 = (
    '[data]\ntrain = "data.jsonl"\nprompt = "Review: {text}\\nThis review is"\n'
    'completion = " {label}"\nwords = { label = ["negative", "positive"] }\nmax_length = 32\n'
)
FAULTS = ("faults.lose=0.2", "faults.repeat=0.2", "faults.delay_s=0.3")


def paceline(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cluster.cli", *arguments]


def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        paceline(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=240
    )


class Job:
    """A `paceline train` process with a shared-seed job, and machines that join it."""

    def __init__(self, file: Path, *settings: str, wait_s: float = 120.0) -> None:
        self.out = file.parent / "run"
        self._wait_s = wait_s
        options = [f"--set={setting}" for setting in settings]
        self.process = subprocess.Popen(
            paceline("train", str(file), "--json", *options),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.printed = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.joined: list[subprocess.Popen[str]] = []
        self._wait(lambda: "--server" in self.printed)
        found = re.search(r"--server (127\.0\.0\.1:\d+)", self.printed)
        assert found, self.printed
        self.address = found.group(1)

    def join(self, data: Path, *options: str) -> "subprocess.Popen[str]":
        """Start a machine outside the cluster."""
        command = paceline("train", "join", "--server", self.address, "--data", str(data), "--json")
        process = subprocess.Popen(
            [*command, *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.joined.append(process)
        return process

    def wait_for(self, number: int) -> None:
        """Wait until so many rounds are closed."""
        self._wait(lambda: self._rounds() >= number)

    def wait_for_machines(self, number: int) -> None:
        """Wait until so many machines have brought bytes."""

        def there() -> bool:
            log = self.out / "seeds.log"
            commits = read_log(log).commits if log.exists() else []
            return len({e.machine for c in commits for e in c.entries}) >= number

        self._wait(there)

    def kill(self, name: str) -> None:
        """End one actor's process."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        victims = [child for child in below if child.name().startswith(f"ray::{name}")]
        assert victims, [child.name() for child in below]
        os.kill(victims[0].pid, signal.SIGKILL)

    def end(self) -> dict[str, object]:
        """Wait for the job's end; return what it told."""
        assert self.process.wait(timeout=self._wait_s) == 0, self.printed
        assert self.process.stdout is not None
        found: dict[str, object] = json.loads(self.process.stdout.read().splitlines()[-1])
        return found

    def close(self) -> None:
        """End what still runs."""
        for process in (self.process, *self.joined):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(timeout=20)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._reader.join(timeout=10)

    def _rounds(self) -> int:
        metrics = self.out / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return int(json.loads(lines[-1])["step"]) if lines else 0

    def _wait(self, ready: "object") -> None:
        deadline = time.monotonic() + self._wait_s
        while not ready():  # type: ignore[operator]  # a function without arguments
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.05)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.printed += line


@pytest.fixture
def tiny_job(tmp_path: Path) -> Path:
    words = [
        {"prompt": f"w{a} w{b}", "completion": f" w{a + b}"} for a in range(8) for b in range(8)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(word) + "\n" for word in words))
    model = save_tiny_checkpoint(tmp_path / "tiny")
    file = tmp_path / "job.toml"
    file.write_text(
        f'model = "{model}"\nout = "run"\nmethod = "shared-seed"\neval_every = 50\n'
        '[data]\ntrain = "data.jsonl"\neval = "data.jsonl"\nmax_length = 16\n'
        "[optimizer]\nsteps = 60\nbatch = 4\nlr = 0.03\n[workers]\ncount = 2\n"
        "[shared_seed]\nhash_every = 5\nsnapshot_every = 20\nalive_s = 3.0\n"
    )
    return file


def assert_rebuilt(out: Path, again: Path) -> None:
    """Replay a run's log by the command line, and verify what the run published."""
    log = str(out / "seeds.log")
    assert call("train", "replay", "--log", log, "--out", str(again)).returncode == 0
    mine, other = (load_file(d / "adapter_model.safetensors") for d in (out / "final", again))
    assert mine.keys() == other.keys()
    assert all(np.array_equal(mine[name], other[name]) for name in mine)
    done = call("train", "verify", str(out / "final"), "--log", log, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["same"] is True


def test_whichever_process_dies_all_replicas_and_the_replay_are_the_same(
    tiny_job: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    faults = ("faults.lose=0.1", "faults.repeat=0.1", "faults.delay_s=0.05")
    job = Job(tiny_job, "shared_seed.quorum=3", "optimizer.steps=80", *faults)
    try:
        first, doomed = job.join(data, "--name", "outside"), job.join(data)
        job.wait_for_machines(4)
        os.kill(doomed.pid, signal.SIGKILL)
        job.kill("SeedWorker")
        late = job.join(data, "--name", "late")
        job.wait_for_machines(5)
        job.kill("Sequencer")
        told = job.end()
        ends = [json.loads(process.communicate(timeout=60)[0]) for process in (first, late)]
        assert [end["round"] for end in ends] == [80, 80]
        assert len({end["digest"] for end in ends}) == 1
        assert told["same_replicas"] == 2
        assert told["step"] == 80
    finally:
        job.close()
    assert_rebuilt(job.out, tmp_path / "again")
    lines = [json.loads(x) for x in (job.out / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["eval_loss"] < 4.9
    weights = load_file(job.out / "final" / "adapter_model.safetensors")
    assert any(np.abs(w).max() > 0 for name, w in weights.items() if "lora_B" in name)


@pytest.mark.slow
def test_a_cancelled_run_continues(tiny_job: Path, tmp_path: Path) -> None:
    job = Job(tiny_job, "faults.delay_s=0.5")
    try:
        job.wait_for(5)
        assert call("train", "cancel", str(job.out)).returncode == 0
        assert job.process.wait(timeout=60) == 1
    finally:
        job.close()
    before = len(read_log(job.out / "seeds.log").commits)
    assert 5 <= before < 60
    done = call("train", "resume", str(job.out), "--json", "--set", "faults.delay_s=0")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 60
    assert_rebuilt(job.out, tmp_path / "again")
    status = json.loads(call("train", "status", str(job.out), "--json").stdout)
    assert status["done"]


@pytest.mark.slow
def test_who_may_not_join_is_told(tiny_job: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("red\n")
    (tmp_path / "wrong").write_text("blue\n")
    data = str(tmp_path / "data.jsonl")
    settings = ('shared_seed.token_file="tokens"', "faults.delay_s=0.2", "optimizer.steps=5000")
    job = Job(tiny_job, *settings)  # until it is ended
    try:
        options = ("train", "join", "--server", job.address, "--data", data)
        refused = call(*options, "--token-file", str(tmp_path / "wrong"))
        assert refused.returncode == 2
        assert "no valid bearer token" in refused.stderr
        assert call(*options).returncode == 2
        assert "is no file" in call(*options[:4], "--data", "none.jsonl").stderr
        other = call(*options, "--token-file", str(tmp_path / "tokens"), "--model", "smollm2-135m")
        assert other.returncode == 2
        assert "checksum mismatch" in other.stderr
        welcome = job.join(tmp_path / "data.jsonl", "--token-file", str(tmp_path / "tokens"))
        job.wait_for_machines(3)
        welcome.send_signal(signal.SIGTERM)
        assert json.loads(welcome.communicate(timeout=60)[0])["left"] is True
    finally:
        job.close()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_eight_machines_on_a_real_task_through_everything(tmp_path: Path) -> None:
    """SmolLM2 on SST-2, joins, leaves and kills, lost, repeated and late messages."""
    if "SST2" not in os.environ:
        pytest.skip("SST2 names no directory with SST-2's train.jsonl: text and label")
    lines = (Path(os.environ["SST2"]) / "train.jsonl").read_text().splitlines()
    short = [line for line in lines if len(json.loads(line)["text"].split()) <= 8]
    (tmp_path / "data.jsonl").write_text("".join(line + "\n" for line in short[:400]))
    file = tmp_path / "job.toml"
    file.write_text(
        f'model = "{smollm2_directory()}"\nout = "run"\nmethod = "shared-seed"\n{SST2}'
        "[optimizer]\nsteps = 30\nbatch = 2\nlr = 0.02\n[workers]\ncount = 2\n"
        "[shared_seed]\ndirections = 2\nhash_every = 5\nsnapshot_every = 10\nalive_s = 20.0\n"
        "quorum = 2\n[faults]\nlose = 0.2\nrepeat = 0.2\ndelay_s = 0.3\n"
    )
    faults = [f"--set={fault}" for fault in FAULTS]
    job = Job(file, wait_s=900)
    try:
        data = tmp_path / "data.jsonl"
        outside = [job.join(data, "--name", f"m{n}", *faults) for n in range(6)]
        job.wait_for_machines(8)
        job.kill("SeedWorker")
        os.kill(outside[0].pid, signal.SIGKILL)
        job.wait_for(8)
        job.kill("Sequencer")
        outside[1].send_signal(signal.SIGTERM)
        outside += [job.join(data, "--name", f"n{n}", *faults) for n in range(2)]
        job.wait_for(14)
        os.kill(outside[2].pid, signal.SIGKILL)
        job.kill("Sequencer")
        outside.append(job.join(data, "--name", "late", *faults))
        job.wait_for_machines(11)
        told = job.end()
        ends = [
            json.loads(process.communicate(timeout=120)[0])
            for process in outside
            if process not in (outside[0], outside[2])
        ]
        stayed = [end for end in ends if not end["left"]]
        assert len(stayed) == 6
        assert len({end["digest"] for end in stayed}) == 1
        assert told["same_replicas"] == 2
    finally:
        job.close()
    assert_rebuilt(job.out, tmp_path / "again")
