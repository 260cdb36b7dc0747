"""What a training job cannot learn from is rejected before Ray or any worker is started."""

import json
from pathlib import Path

import pytest

from cluster.network.ray_session import RaySession
from cluster.options.train_options import TrainOptions
from cluster.train.training import run
from runtime.errors import ConfigError
from tests.support.tiny_checkpoint import save_tiny_checkpoint

FINE = {"prompt": "w1", "completion": " w2"}


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that starts Ray or a worker; another test's Ray may run in this process."""

    def start(*_: object, **__: object) -> None:
        raise AssertionError("the job starts Ray")

    monkeypatch.setattr(RaySession, "__enter__", start)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def refused(
    model: Path, tmp_path: Path, *settings: str, train: object = FINE, dev: object = FINE
) -> str:
    for name, record in (("train", train), ("dev", dev)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, (FINE, record))))
    file = tmp_path / "job.toml"
    file.write_text(
        f'model = "{model}"\nout = "run"\n[data]\ntrain = "train.jsonl"\neval = "dev.jsonl"\n'
        "[optimizer]\nbatch = 4\n"
    )
    with pytest.raises(ConfigError) as caught:
        run(TrainOptions(config=file, settings=settings, ray_address=None, json=True))
    return str(caught.value)


@pytest.mark.parametrize("method", ["lora", "full", "shared-seed"])
def test_a_length_beyond_the_context_is_rejected_before_any_worker(
    model: Path, tmp_path: Path, method: str
) -> None:
    found = refused(model, tmp_path, f"method={method}", "data.max_length=1000")
    assert "`data.max_length` is 1000, the context of" in found
    assert "set it to at most 512" in found


@pytest.mark.parametrize("method", ["lora", "shared-seed"])
def test_a_layer_that_the_model_lacks_is_rejected_before_any_worker(
    model: Path, tmp_path: Path, method: str
) -> None:
    found = refused(model, tmp_path, f"method={method}", 'lora.targets=["q_proj", "query"]')
    assert "`lora.targets`: no linear layer is called query: there are" in found


@pytest.mark.parametrize("method", ["lora", "shared-seed"])
def test_a_tokenizer_of_another_model_is_rejected_before_any_worker(
    tmp_path: Path, method: str
) -> None:
    other = save_tiny_checkpoint(tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["w101"] = 101
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = refused(other, tmp_path, f"method={method}", dev=FINE | {"completion": " w101"})
    assert "dev.jsonl, line 2: token 101 ('w101') is not in the embedding" in found


@pytest.mark.parametrize("method", ["lora", "shared-seed"])
@pytest.mark.parametrize("broken", ["train", "dev"])
def test_a_bad_record_is_rejected_before_any_worker(
    model: Path, tmp_path: Path, method: str, broken: str
) -> None:
    record = {"prompt": "w1", "completion": ["w2"]}
    found = refused(model, tmp_path, f"method={method}", **{broken: record})
    assert f"{broken}.jsonl, line 2: completion is ['w2'] (list): it must be a string" in found


def test_answers_that_do_not_fit_are_rejected_before_any_worker(
    model: Path, tmp_path: Path
) -> None:
    settings = (
        "method=shared-seed",
        "shared_seed.reward=math:fsum",
        "shared_seed.max_answer=512",
    )
    found = refused(model, tmp_path, *settings)
    assert "train.jsonl, line 1: the sample has 1 tokens and its answer up to 512" in found
