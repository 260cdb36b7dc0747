"""A job gives the same adapter on any workers, groups of ranks too, through faults and cuts."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.integration.training_jobs import adapter, cut_and_resumed, same, train
from tests.support.tiny_checkpoint import save_tiny_checkpoint

CLOSE = 1e-6
"""Where AdamW divides small gradients by themselves, rounding counts in units of the rate, 2e-5."""
WIDE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
MIX = ("data.train=", 'data.mix={"data.jsonl" = 3, "more.jsonl" = 1}')
EVERYTHING = (
    *MIX,
    "optimizer.steps=off",
    "optimizer.epochs=0.3",
    "data.buffer=10",
    "data.batching=packed",
    "base_precision=int4",
    "lora.dora=true",
)
OPTIONS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "bfloat16": ("base_precision=bfloat16",),
    "int8 and a pattern": ("base_precision=int8", 'lora.rank_pattern={"layers.1.*" = 4}'),
    "int4 and DoRA": ("base_precision=int4", "lora.dora=true"),
    "packed": ("data.batching=packed", "gradient_checkpointing=true"),
    "a mix in windows": (*MIX, "data.buffer=7"),
    "dropout": ("lora.dropout=0.2", "lora.rank_stabilized=true"),
    "in rounds": ("workers.scheme=frc-1",),
    "everything": EVERYTHING,
}
FAULTS = ("faults.slow=0.3", "faults.factor=10", "faults.kill=0.1")
GROUPS = "workers.tp=2"


@pytest.fixture
def job(tmp_path: Path, ray_session: None) -> Path:  # noqa: ARG001  (it must be up)
    model = save_tiny_checkpoint(tmp_path / "tiny", **WIDE)
    for name, size in (("data", 6), ("more", 4)):
        words = [
            {"prompt": f"w{a} w{b}", "completion": f" w{a + b}"}
            for a in range(size)
            for b in range(size)
        ]
        lines = "".join(json.dumps(word) + "\n" for word in words)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    file = tmp_path / "job.toml"
    file.write_text(
        f'model = "{model}"\nout = "run"\n[data]\ntrain = "data.jsonl"\nmax_length = 16\n'
        '[lora]\ntargets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]\n'
        "[optimizer]\nsteps = 4\nbatch = 4\nmicrobatch = 2\nlr = 2e-5\n"
        "[workers]\ncount = 2\n[watch]\ntensorboard = false\nchart = false\n"
    )
    return file


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def close(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.abs(a[name] - b[name]).max() <= CLOSE for name in a)


def test_a_rank_that_dies_takes_its_worker_along_and_changes_nothing(job: Path) -> None:
    alone = train(job, "out=a", *EVERYTHING)
    settings = ("workers.count=1", "faults.kill=0.2", "faults.seed=3")
    killed = train(job, "out=b", GROUPS, *settings, *EVERYTHING)
    lines = metrics(killed)
    assert sum(line["num_lost"] for line in lines) > 0
    assert close(adapter(alone), adapter(killed))
    losses = [line["loss"] for line in metrics(alone)]
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=CLOSE)
    learned = [one for name, one in adapter(alone).items() if "lora_B" in name]
    assert max(np.abs(one).max() for one in learned) > 1e-5


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", OPTIONS)
def test_no_option_depends_on_workers_faults_or_cuts(job: Path, name: str) -> None:
    settings = OPTIONS[name]
    quiet = train(job, "out=quiet", *settings)
    faulty = train(job, "out=faulty", *settings, *FAULTS)
    assert same(adapter(quiet), adapter(faulty))
    assert sum(line["num_lost"] for line in metrics(faulty)) > 0
    if name != "in rounds":  # whose parts are by the number of workers
        assert same(adapter(quiet), adapter(train(job, "out=three", "workers.count=3", *settings)))
        assert same(adapter(quiet), adapter(cut_and_resumed(job, "cut", *settings)))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", OPTIONS)
def test_groups_of_ranks_agree_with_one_rank_and_with_themselves(job: Path, name: str) -> None:
    settings = OPTIONS[name]
    alone = train(job, "out=alone", *settings)
    quiet = train(job, "out=quiet", GROUPS, *settings)
    assert close(adapter(alone), adapter(quiet))
    gloo = train(job, "out=gloo", GROUPS, "workers.tp_backend=gloo", *settings)
    assert same(adapter(quiet), adapter(gloo))  # of two parts, any order has the same sum
    faulty = train(job, "out=faulty", GROUPS, *settings, *FAULTS)
    assert same(adapter(quiet), adapter(faulty))
    assert sum(line["num_lost"] for line in metrics(faulty)) > 0


@pytest.mark.slow
def test_all_weights_learn_on_groups(job: Path) -> None:
    settings = ("method=full", "optimizer.steps=3")
    alone = train(job, "out=a", *settings)
    split = train(job, "out=b", GROUPS, *settings)
    losses = [[line["loss"] for line in metrics(out)] for out in (alone, split)]
    assert losses[0] == pytest.approx(losses[1], rel=CLOSE)
    assert (split / "final" / "config.json").exists()
