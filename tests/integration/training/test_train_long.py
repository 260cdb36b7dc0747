"""Two hundred steps of a real model through delays, a hang and two kills: no bit changes."""

import json
import os
import signal
from pathlib import Path

import pytest

from cluster.train.progress import StepDisplay
from runtime.training.training_step import StepReport
from tests.support.integration.training_jobs import adapter, same, train, watch_pids
from tests.support.models import smollm2_directory

STEPS = 200
BLOWS = {40: signal.SIGKILL, 80: signal.SIGSTOP, 120: signal.SIGKILL}
"""What a worker gets after a step; one that is stopped is silent forever."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:  # noqa: ARG001
    directory = tmp_path_factory.mktemp("long")
    records = [
        {"prompt": f"{a} plus {b} is", "completion": f" {a + b}"}
        for a in range(10)
        for b in range(10)
    ]
    (directory / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    file = directory / "job.toml"
    file.write_text(
        f'model = "{smollm2_directory()}"\nout = "run"\n[data]\ntrain = "data.jsonl"\n'
        "max_length = 16\n[lora]\ndropout = 0.05\n"
        f"[optimizer]\nsteps = {STEPS}\nbatch = 4\nmicrobatch = 2\nlr = 0.003\n"
        "[workers]\ncount = 2\nlost_after_s = 20.0\n"
    )
    return file


@pytest.fixture(scope="module")
def undisturbed(job: Path) -> Path:
    return train(job, "out=undisturbed")


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("scheme", "workers"), [("pull", 2), ("frc-1", 4), ("class-1", 3)])
def test_delays_a_hang_and_kills_change_no_bit(
    job: Path, undisturbed: Path, scheme: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three add the same two chunks in the same order, so all give the same bits."""
    pids = watch_pids(monkeypatch)
    show = StepDisplay.step
    hit: list[int] = []

    def strike(self: StepDisplay, report: StepReport) -> None:
        show(self, report)
        if report.step in BLOWS:
            victim = pids[len(hit) % workers]
            os.kill(victim, BLOWS[report.step])
            hit.append(victim)

    monkeypatch.setattr(StepDisplay, "step", strike)
    out = train(
        job,
        f"out={scheme}",
        f"workers.scheme={scheme}",
        f"workers.count={workers}",
        "faults.slow=0.05",
        "faults.factor=10",
        "faults.hang=0.0005",
    )
    quiet, faulty = metrics(undisturbed), metrics(out)
    assert [line["loss"] for line in faulty] == [line["loss"] for line in quiet]
    assert len(faulty) == STEPS
    assert faulty[-1]["loss"] < faulty[0]["loss"] / 4
    assert same(adapter(undisturbed), adapter(out))
    assert len(hit) == len(BLOWS)
    assert sum(line["num_lost"] for line in faulty) >= len(BLOWS)
    assert sum(line["num_stragglers"] for line in faulty) > 5
