"""A job that must not continue: numbers that are not finite, a full disk, nothing left to do."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cluster.options.train_options import TrainOptions, TrainResumeOptions
from cluster.train.progress import StepDisplay
from cluster.train.training import resume, run
from parallel.errors import PacelineError
from runtime.training.training_step import DivergedError, NotFiniteError, StepReport
from tests.support.integration.training_jobs import same, train
from tests.support.tiny_checkpoint import save_tiny_checkpoint

STEPS = 4
SETTINGS = ("method=full", "checkpoint.state_every=1", "optimizer.lr=0.01")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:  # noqa: ARG001  (it must be up)
    folder: Path = tmp_path_factory.mktemp("job")
    words = [
        {"prompt": f"w{a} w{b}", "completion": f" w{a + b}"} for a in range(8) for b in range(8)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(word) + "\n" for word in words))
    model = save_tiny_checkpoint(folder / "tiny")
    file = folder / "job.toml"
    file.write_text(
        f'model = "{model}"\nout = "run"\n[data]\ntrain = "data.jsonl"\n'
        f"[optimizer]\nsteps = {STEPS}\nbatch = 4\nmicrobatch = 2\n[workers]\ncount = 1\n"
        "[checkpoint]\nstate_every = 100\n"
    )
    return file


@pytest.fixture(scope="module")
def whole(job: Path) -> Path:
    """The directory of an undisturbed run."""
    return train(job, "out=whole", *SETTINGS)


def learned(out: Path) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = load_file(out / "final" / "model.safetensors")
    return tensors


def steps_of(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_loss_that_is_not_finite_stops_the_job_and_keeps_the_last_state(job: Path) -> None:
    diverges = ("optimizer.lr=1e38", "optimizer.warmup=0.0", 'optimizer.schedule="constant"')
    with pytest.raises(NotFiniteError, match=r"step 2: .* of chunk 0 and chunk 1 is not finite"):
        run(TrainOptions(config=job, settings=diverges, json=True))
    out = job.parent / "run"
    assert not (out / "final").exists()
    state = load_file(out / "state.safetensors")
    assert all(np.isfinite(part).all() for part in state.values())
    assert [line["step"] for line in steps_of(out)] == [1]
    with pytest.raises(NotFiniteError, match="after step 4, the loss is not finite"):
        run(TrainOptions(config=job, settings=(*diverges, "on_nonfinite=skip"), json=True))
    assert not (out / "final").exists()
    assert [(line["loss"] is None, line["skipped"]) for line in steps_of(out)] == [
        (False, False), *[(True, True)] * 2,
    ]  # fmt: skip


def test_a_job_whose_last_step_diverges_leaves_no_result(job: Path) -> None:
    settings = ("out=last", "optimizer.lr=1e38", "optimizer.steps=1")
    with pytest.raises(NotFiniteError, match="after step 1, the loss is not finite"):
        run(TrainOptions(config=job, settings=settings, json=True))
    assert not (job.parent / "last" / "final").exists()


def test_a_full_disk_ends_the_job_and_a_resumed_one_gives_the_same_bits(
    job: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show = StepDisplay.step
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self: StepDisplay, report: StepReport) -> None:
        show(self, report)
        if report.step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))

    with monkeypatch.context() as patch:
        patch.setattr(StepDisplay, "step", fill)
        try:
            with pytest.raises(PacelineError) as found:
                run(TrainOptions(config=job, settings=("out=cut", *SETTINGS), json=True))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    cut = job.parent / "cut"
    assert "could not be written" in str(found.value)
    assert f"continue with paceline train resume {cut}" in str(found.value)
    assert "\n" not in str(found.value)
    assert resume(TrainResumeOptions(directory=cut, json=True)) == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("4/4 loss")
    assert same(learned(whole), learned(cut))


def test_a_job_that_gains_no_more_stops_early_and_keeps_its_best(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (
        "out=early", "method=full", "optimizer.steps=20", "optimizer.lr=0.1", "eval_every=2",
        "optimizer.schedule=constant", f"data.eval={job.parent / 'data.jsonl'}",
        "data.eval_limit=4", "early_stop.patience=3", "watch.samples=2",
        'optimizer.no_decay=["norm"]', "optimizer.weight_decay=0.01",
    )  # fmt: skip
    out = train(job, *settings)
    lines = steps_of(out)
    last = lines[-1]["step"]
    judged = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    assert isinstance(last, int)
    assert last < 20
    best = json.loads((out / "best.json").read_text())
    assert best == {"step": last - 6, "eval_loss": min(map(float, map(str, judged.values())))}
    assert f"stopped early after step {last}: eval_loss has not been better than" in (
        capsys.readouterr().err
    )
    assert (out / "final" / "model.safetensors").exists()
    assert not same(learned(out), load_file(out / "best" / "model.safetensors"))
    answers = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [one["step"] for one in answers] == [step for step in judged for _ in range(2)]
    assert answers[1]["prompt"].endswith("w1")  # w0 is the unknown token, which is not shown
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cluster.train.training.ModelPool", None)  # any use would fail
        train(job, *settings)
    assert f"is finished: it made its {last} steps" in capsys.readouterr().err
    longer = train(job, *settings, "early_stop.patience=off")
    assert [line["step"] for line in steps_of(longer)] == list(range(1, 21))


def test_a_job_whose_loss_stays_far_above_its_start_says_so_and_stops_if_asked(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (
        "method=full", "optimizer.steps=60", "optimizer.lr=3.0", "optimizer.warmup=0.3",
        "optimizer.schedule=constant",
    )  # fmt: skip
    with pytest.raises(DivergedError, match=r"the model diverges: its loss .* for 20 steps") as why:
        train(job, "out=far", "on_divergence=stop", *settings)
    out = job.parent / "far"
    assert not (out / "final").exists()
    last = steps_of(out)[-1]["step"]
    assert isinstance(last, int)
    assert str(why.value).startswith(f"step {last}: ")
    capsys.readouterr()
    assert train(job, "out=far", *settings) == out
    printed = capsys.readouterr().err
    assert printed.count("WARNING: ") == 1
    assert f"WARNING: step {last + 1}: the model diverges" in printed


def test_a_finished_job_is_reported_without_any_worker(
    job: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = learned(whole)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("cluster.train.training.ModelPool", None)  # any use would fail
        assert train(job, "out=whole", *SETTINGS) == whole
    printed = capsys.readouterr()
    assert "is finished: it made its 4 steps" in printed.err
    assert json.loads(printed.out)["step"] == STEPS
    for file in (whole / "final").iterdir():
        file.unlink()
    (whole / "final").rmdir()
    assert same(learned(train(job, "out=whole", *SETTINGS)), first)  # its state suffices
