"""A job's samples are the same whether they are read before it starts or while it runs."""

import json
from pathlib import Path

import pytest

from cluster.train.job_data import JobData, read_job_data
from runtime.errors import ConfigError
from runtime.models.tokenizer import Tokenizer
from runtime.training.job.job_config import DataConfig
from runtime.training.samples import Sampler
from tests.support.tiny_checkpoint import save_tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def read(model: Path, data: DataConfig) -> JobData:
    tokenizer = Tokenizer.load(model)
    return read_job_data(data, tokenizer, Sampler.of(model, tokenizer, data.max_length))


def write(tmp_path: Path, *, last: str = '" w3"') -> str:
    line = json.dumps({"prompt": "w1 w2", "completion": " w3"})
    file = tmp_path / "data.jsonl"
    file.write_text(f"{line}\n" * 11 + f'{{"prompt": "w1 w2", "completion": {last}}}\n')
    return str(file)


@pytest.mark.parametrize("buffer", [None, 3])
def test_samples_are_the_same(model: Path, tmp_path: Path, buffer: int | None) -> None:
    found = read(model, DataConfig(train=write(tmp_path), buffer=buffer))
    assert len(found.samples) == 12
    assert len(found.first) == 8
    assert found.examples[0].completion == " w3"
    assert list(found.sizes.num_tokens) == [3] * 12
    assert (found.known_sizes is None) == (buffer is not None)
    assert ("12 records are read in windows of 3" in found.note) == (buffer is not None)


def test_a_bad_record_is_found_at_the_start_or_when_it_is_read(model: Path, tmp_path: Path) -> None:
    train = write(tmp_path, last="7")
    with pytest.raises(ConfigError, match=r"line 12: completion is 7"):
        read(model, DataConfig(train=train))
    later = read(model, DataConfig(train=train, buffer=3))
    with pytest.raises(ConfigError, match=r"line 12: completion is 7"):
        later.samples[11]
