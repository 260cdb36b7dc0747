"""Fine-tuning jobs in this process: run, and what they left."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cluster.options.train_options import TrainOptions
from cluster.train.ray_pool import RayPool
from cluster.train.training import run


def train(file: Path, *settings: str) -> Path:
    """Run a job to its end and return its directory."""
    assert run(TrainOptions(config=file, settings=settings, ray_address=None, json=True)) == 0
    out = next((s.partition("=")[2] for s in settings if s.startswith("out=")), "run")
    return file.parent / out


def cut_and_resumed(job: Path, out: str, *settings: str) -> Path:
    """Run a job, cut it after its second step, and resume it with one worker."""
    stopped = job.parent / out

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        if len((stopped / "metrics.jsonl").read_text().splitlines()) == 2:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cluster.train.progress.StepDisplay.step", stop)
        with pytest.raises(Stop):
            train(job, f"out={out}", *settings)
    return train(job, f"out={out}", *settings, "workers.count=1")


def adapter(directory: Path) -> dict[str, np.ndarray]:
    """Return what a job learned."""
    tensors: dict[str, np.ndarray] = load_file(directory / "final" / "adapter_model.safetensors")
    return tensors


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Return whether two adapters are the same bit for bit."""
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def watch_pids(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Return the process ids of the workers of the job that is started next, as they come."""
    pids: dict[int, int] = {}
    wait = RayPool.wait_ready

    def remember(self: RayPool, num_needed: int) -> None:
        self.pids = pids
        wait(self, num_needed)

    monkeypatch.setattr(RayPool, "wait_ready", remember)
    return pids
