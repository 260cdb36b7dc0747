"""Samples of a stream are those of the whole files, with few windows in memory."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from runtime.models.tokenizer import Tokenizer
from runtime.training.job.job_config import DataConfig, OptimizerConfig, TrainConfig
from runtime.training.samples import Sampler
from runtime.training.streaming.record_windows import Record, RecordWindows, open_windows
from runtime.training.streaming.streamed_samples import StreamedSamples
from runtime.training.training_data import read_examples
from runtime.training.training_step import SampleSizes, batch_of
from tests.support.rejection import rejected
from tests.support.tiny_checkpoint import save_tiny_checkpoint


class CountedWindows:
    """Counts how often windows are read."""

    def __init__(self, inner: RecordWindows) -> None:
        self.num_records, self.digest, self._inner = inner.num_records, inner.digest, inner
        self.reads: list[int] = []

    def read(self, window: int) -> list[Record]:
        self.reads.append(window)
        return self._inner.read(window)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def write(file: Path, count: int, *, first: int = 0) -> str:
    records = [
        {"prompt": "w1 " * (1 + n % 3), "completion": f" w{n + first}"} for n in range(count)
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(file)


def opened(model: Path, data: DataConfig) -> tuple[StreamedSamples, list[CountedWindows], Sampler]:
    tokenizer = Tokenizer.load(model)
    sampler = Sampler.of(model, tokenizer, data.max_length)
    assert data.buffer is not None
    files = [CountedWindows(open_windows(Path(one), data.buffer)) for one in data.files]
    return StreamedSamples(files, data, tokenizer, sampler), files, sampler


def test_samples_and_sizes_are_those_in_memory(model: Path, tmp_path: Path) -> None:
    mix = {write(tmp_path / "a.jsonl", 13): 1.0, write(tmp_path / "b.jsonl", 6, first=50): 1.0}
    data = DataConfig(mix=mix, buffer=4)
    stream, _, sampler = opened(model, data)
    by_file = [read_examples(Path(one), data, sampler.tokenizer) for one in mix]
    whole = sampler.samples([example for examples in by_file for example in examples])
    assert [stream[index] for index in range(len(stream))] == whole
    wanted = SampleSizes.of(whole, [13, 6])
    assert list(stream.sizes.num_tokens) == list(wanted.num_tokens)
    assert stream.sizes.num_loss_tokens[3:7] == list(wanted.num_loss_tokens)[3:7]
    assert list(stream.sizes.num_of_files) == [13, 6]
    assert [one.completion for one in stream.first_examples(2)] == [" w0", " w1"]
    with pytest.raises(IndexError):
        stream[19]


def batches(config: TrainConfig, stream: StreamedSamples, steps: Sequence[int]) -> list[list[int]]:
    found = []
    for step in steps:
        ids = batch_of(config, step, stream.sizes)
        assert stream.sizes.loss_tokens_of(ids) == len(ids)
        found.append(ids)
    return found


def test_an_epoch_reads_each_window_once(model: Path, tmp_path: Path) -> None:
    data = DataConfig(train=write(tmp_path / "a.jsonl", 50), buffer=10)
    config = TrainConfig(data=data, optimizer=OptimizerConfig(batch=4))
    stream, (file,), _ = opened(model, data)
    whole = batches(config, stream, range(12))
    assert len(file.reads) == 5
    assert sorted(file.reads) == list(range(5))
    resumed, (other,), _ = opened(model, data)
    assert batches(config, resumed, range(7, 12)) == whole[7:]  # from any step on
    assert len(other.reads) <= 3


def test_a_mix_holds_windows_of_each_file(model: Path, tmp_path: Path) -> None:
    mix = {write(tmp_path / "a.jsonl", 40): 1.0, write(tmp_path / "b.jsonl", 40): 1.0}
    data = DataConfig(mix=mix, buffer=10)
    config = TrainConfig(data=data, optimizer=OptimizerConfig(batch=8))
    stream, files, _ = opened(model, data)
    batches(config, stream, range(9))
    assert all(len(file.reads) <= 5 for file in files)


def test_a_bad_record_is_named_when_its_window_is_read(model: Path, tmp_path: Path) -> None:
    file = Path(write(tmp_path / "a.jsonl", 9))
    file.write_text(file.read_text() + '{"prompt": "w1"}\n')
    stream, _, _ = opened(model, DataConfig(train=str(file), buffer=5))
    assert stream[4].num_loss_tokens == 1
    with rejected(r"a.jsonl, line 10: no field 'completion'"):
        stream[5]


def test_the_digest_changes_with_any_file(model: Path, tmp_path: Path) -> None:
    data = DataConfig(train=write(tmp_path / "a.jsonl", 9), buffer=5)
    first = StreamedSamples.open(data, Tokenizer.load(model), opened(model, data)[2]).digest
    assert opened(model, data)[0].digest == first
    write(tmp_path / "a.jsonl", 9, first=1)
    assert opened(model, data)[0].digest != first
