"""`train plan` prints what a job needs, with and without its data, and rejects what cannot fit."""

import json
from pathlib import Path

import pytest

from cluster.options.train_options import TrainPlanOptions
from cluster.train.job_needs import node_memory, run
from runtime.errors import ConfigError
from tests.support.tiny_checkpoint import save_tiny_checkpoint


@pytest.fixture
def job(tmp_path: Path) -> Path:
    model = save_tiny_checkpoint(tmp_path / "tiny")
    records = [{"prompt": "w1 w2", "completion": " w3"}, {"prompt": "w1", "completion": " w3 w4"}]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    file = tmp_path / "job.toml"
    file.write_text(
        f'model = "{model}"\nout = "run"\n[data]\ntrain = "data.jsonl"\nmax_length = 64\n'
    )
    return file


def planned(
    job: Path, capsys: pytest.CaptureFixture[str], *settings: str, as_json: bool = True
) -> str:
    """Return what is printed; a given bandwidth needs no Ray."""
    options = TrainPlanOptions(
        config=job, settings=settings, bandwidth=100.0, ray_address=None, json=as_json
    )
    assert run(options) == 0
    return capsys.readouterr().out


def test_the_plan_reads_the_samples(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(planned(job, capsys))
    assert found["chunk"]["length"] == 3
    assert found["num_workers"] == 2
    assert found["rank"]["total"] == sum(v for k, v in found["rank"].items() if k != "total")
    assert found["transfer_s"] == pytest.approx(
        (found["step"]["parameters"] + found["step"]["gradients"]) / 1e8
    )
    assert not (job.parent / "run").exists()


def test_without_data_samples_are_assumed_to_be_long(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (job.parent / "data.jsonl").unlink()
    found = json.loads(planned(job, capsys))
    assert found["chunk"] == {"rows": 4, "length": 64, "num_learned": 252, "is_masked": True}
    text = planned(job, capsys, as_json=False)
    assert "(assumed: no samples were read)" in text
    assert "base weights" in text
    assert "100 MB/s (given)" in text


def test_a_job_that_cannot_fit_is_rejected_after_its_plan(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = json.loads((job.parent / "tiny" / "config.json").read_text())
    large = {"hidden_size": 8192, "intermediate_size": 32768, "num_hidden_layers": 200}
    fields |= large | {"num_attention_heads": 64, "num_key_value_heads": 64, "head_dim": 128}
    (job.parent / "large").mkdir()
    (job.parent / "large" / "config.json").write_text(json.dumps(fields))
    job.write_text(job.read_text().replace("/tiny", "/large"))
    with pytest.raises(ConfigError, match=r"do not fit; available: .*`method` \"lora\" trains"):
        planned(job, capsys, "method=full", as_json=False)
    assert "memory of each worker" in capsys.readouterr().out


def test_a_job_without_gradients_has_no_plan(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="`method` is shared-seed: plan is for lora and full"):
        planned(job, capsys, "method=shared-seed")


def test_this_machine_is_one_node() -> None:
    (available,) = node_memory(None)
    assert available > 0
