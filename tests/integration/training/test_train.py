"""Fine-tuning on real actors: the same bits after any death, and an adapter that others load."""

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from cluster.bench.training_bench import run as bench
from cluster.options.bench_options import BenchTrainOptions
from cluster.options.train_options import TrainMergeOptions
from cluster.train.job_results import merge
from cluster.train.progress import StepDisplay
from parallel.group import SoloGroup
from runtime.errors import ConfigError
from runtime.models.transformers_model import load_transformers
from runtime.models.weights import load_decoder
from runtime.training.training_step import StepReport
from tests.support.integration.training_jobs import (
    adapter,
    cut_and_resumed,
    same,
    train,
    watch_pids,
)
from tests.support.models import smollm2_directory
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.tiny_transformer import score

NUM_STEPS = 4


@pytest.fixture
def job(tmp_path: Path, ray_session: None) -> Path:  # noqa: ARG001  (it must be up)
    records = [
        {"prompt": f"{a} plus {b} is", "completion": f" {a + b}"}
        for a in range(4)
        for b in range(4)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    file = tmp_path / "job.toml"
    file.write_text(
        f'model = "{smollm2_directory()}"\nout = "run"\neval_every = 4\n'
        '[data]\ntrain = "data.jsonl"\neval = "data.jsonl"\nmax_length = 16\n'
        f"[optimizer]\nsteps = {NUM_STEPS}\nbatch = 6\nmicrobatch = 2\nlr = 0.01\n"
        "[workers]\ncount = 2\n[checkpoint]\nevery = 2\n"
    )
    return file


def assert_engine_agrees(directory: Path, model: PreTrainedModel) -> None:
    """Compare the engine's logits with those of the same model in transformers."""
    ours = load_decoder(directory, SoloGroup(), weights="float32", device=torch.device("cpu"))
    prompt = [28, 7, 9, 11]
    expected = model(torch.tensor([prompt])).logits[0]
    torch.testing.assert_close(score(ours, tuple(prompt)), expected, atol=2e-3, rtol=0)


def test_workers_that_do_not_fit_are_rejected_before_any_is_started(job: Path) -> None:
    with pytest.raises(ConfigError, match=r"workers: 2 rank\(s\) of 99 CPU do not fit"):
        train(job, "workers.cpus=99")


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")  # of what peft calls
def test_it_learns_and_others_load_what_it_learned(job: Path, tmp_path: Path) -> None:
    out = train(job, "optimizer.steps=8")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert lines[-1]["eval_loss"] < lines[3]["eval_loss"]
    assert (out / "step-000002" / "adapter_config.json").exists()
    assert merge(TrainMergeOptions(adapter=out / "final", out=tmp_path / "whole", json=True)) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    plain = load_transformers(smollm2_directory(), torch.float32)
    ids = torch.tensor([[28, 7, 9]])
    with torch.inference_mode():
        assert not torch.allclose(merged(ids).logits, plain(ids).logits, atol=1e-3)
        assert_engine_agrees(tmp_path / "whole", merged)
    peft = pytest.importorskip("peft")
    adapted = peft.PeftModel.from_pretrained(plain, out / "final")
    with torch.inference_mode():
        torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_killed_and_slow_workers_change_no_bit(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed = train(job, "out=a")
    pids = watch_pids(monkeypatch)
    show = StepDisplay.step

    def kill_one(self: StepDisplay, report: StepReport) -> None:
        show(self, report)
        if report.step <= 2:  # it is busy with a chunk that is done twice, or starts the next step
            os.kill(pids[report.step - 1], signal.SIGKILL)

    monkeypatch.setattr(StepDisplay, "step", kill_one)
    faulty = train(job, "out=b", "faults.slow=0.3", "faults.factor=3")
    assert same(adapter(undisturbed), adapter(faulty))
    lines = [json.loads(line) for line in (faulty / "metrics.jsonl").read_text().splitlines()]
    plain = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [line["loss"] for line in plain]
    assert sum(line["num_lost"] for line in lines) == 2
    assert capsys.readouterr().err.count("was lost and is being replaced") == 2
    monkeypatch.undo()
    streamed = train(job, "out=c", "workers.scheme=frc-stream", "optimizer.microbatch=3")
    pulled = train(job, "out=d", "optimizer.microbatch=3")
    assert same(adapter(streamed), adapter(pulled))


@pytest.fixture
def tiny_job(job: Path, tmp_path: Path) -> Path:
    """The same data for a model of a few thousand weights, and four workers."""
    words = [
        {"prompt": f"w{a} w{b}", "completion": f" w{a + b}"} for a in range(8) for b in range(8)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(word) + "\n" for word in words))
    model = save_tiny_checkpoint(tmp_path / "tiny")
    text = job.read_text().replace(str(smollm2_directory()), str(model))
    job.write_text(text.replace("count = 2", "count = 4\nlost_after_s = 4.0"))
    return job


def test_all_weights_can_learn(tiny_job: Path) -> None:
    settings = ('method="full"', "optimizer.lr=0.003", "optimizer.steps=6", "precision=bfloat16")
    out = train(tiny_job, *settings, "gradient_checkpointing=true", "workers.count=2")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["eval_loss"] < lines[3]["eval_loss"]
    learned = AutoModelForCausalLM.from_pretrained(out / "final").eval()
    assert learned.dtype == torch.float32
    start = AutoModelForCausalLM.from_pretrained(tiny_job.parent / "tiny")
    with torch.inference_mode():
        assert not torch.equal(learned.lm_head.weight, start.lm_head.weight)
        assert_engine_agrees(out / "final", learned)
    assert (out / "step-000002" / "tokenizer.json").exists()


def test_preferences_are_learned(tiny_job: Path) -> None:
    pairs = [
        {"prompt": f"w{a} w{b}", "chosen": " w90", "rejected": " w91"}
        for a in range(8)
        for b in range(8)
    ]
    (tiny_job.parent / "data.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    settings = ("objective=dpo", "optimizer.steps=8", "optimizer.lr=0.03", "workers.count=2")
    out = train(tiny_job, *settings)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert lines[-1]["eval_loss"] < lines[3]["eval_loss"] < math.log(2)
    assert lines[-1]["accuracy"] > 0.9
    assert lines[-1]["margin"] > lines[3]["margin"] > 0
    assert (out / "final" / "adapter_config.json").exists()


@pytest.mark.slow  # the codes are tested in virtual time, pull with real processes above
@pytest.mark.parametrize("scheme", ["frc-1", "m-sgc-1-2-1"])
def test_schemes_in_rounds_train_through_faults(tiny_job: Path, scheme: str) -> None:
    settings = (f'workers.scheme="{scheme}"', "optimizer.batch=16", "optimizer.steps=10")
    faults = ("faults.slow=0.1", "faults.hang=0.01", "faults.kill=0.02", "faults.factor=20")
    quiet = train(tiny_job, "out=a", *settings)
    faulty = train(tiny_job, "out=b", *settings, *faults)
    trials = sorted(quiet.glob("trial-*")) or [quiet]
    assert len(trials) == (2 if "sgc" in scheme else 1)
    lines = []
    for trial in trials:
        other = faulty / trial.relative_to(quiet)
        assert same(adapter(trial), adapter(other))
        lines += [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["num_lost"] for line in lines) > 0
    assert len(lines) == 10 * len(trials)


def test_a_scheme_is_chosen_and_kept(tiny_job: Path) -> None:
    settings = ('workers.scheme="auto"', "workers.profile=3", "optimizer.steps=8")
    out = train(tiny_job, *settings, "faults.slow=0.2", "faults.factor=50")
    chosen = json.loads((out / "scheme.json").read_text())
    assert chosen["scheme"] in chosen["seconds"]
    assert chosen["seconds"][chosen["scheme"]] == min(chosen["seconds"].values())
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))


@pytest.mark.slow  # test_train_cut continues with another number too
def test_a_run_continues_with_another_number_of_workers(job: Path) -> None:
    whole = train(job, "out=a")
    resumed = cut_and_resumed(job, "b")
    assert same(adapter(whole), adapter(resumed))


def test_schemes_are_timed_under_stragglers(
    ray_session: None,  # noqa: ARG001  (it must be up)
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = BenchTrainOptions(
        workers=4,
        schemes=("uncoded", "frc-1"),  # test_experiment.py has pull
        factors=(1.0, math.inf),
        slow=0.1,
        steps=6,
        batch=16,
        step_s=0.1,
        patience=1.0,
        seed=0,
        ray_address=None,
        json=True,
    )
    assert bench(options) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {(row["scheme"], row["factor"]): row for row in rows}
    assert len(found) == 4
    for scheme in options.schemes:
        assert found[scheme, 1.0]["lost"] == 0
        assert found[scheme, 1.0]["ratio"] >= 1
    assert found["uncoded", None]["lost"] > 0
