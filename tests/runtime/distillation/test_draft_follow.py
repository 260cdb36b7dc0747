"""Online training of a drafter: reading traffic, and recovering after a change of domain."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from parallel.decoding.types import DecodeMode, SamplingParams, VerifierKind
from parallel.messages import Submit
from runtime.distillation.draft_corpus import CorpusRecord, append_records
from runtime.distillation.draft_follow import Follower, FollowJob, run_follow
from runtime.distillation.draft_job import DraftJob, run_job
from runtime.distillation.draft_training import TrainSettings
from runtime.distillation.traffic import TrafficLog, TrafficReader
from runtime.drafters.draft_checkpoint import check_drafter
from runtime.errors import ConfigError
from tests.support.tiny_transformer import TinyModel, tiny_model

SETTINGS = TrainSettings(steps=150, batch_tokens=500, learning_rate=3e-3, evaluate_every=50)


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return tiny_model(tie_word_embeddings=True)


@pytest.fixture(scope="module")
def target(model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("target")
    model.reference.save_pretrained(directory)
    return directory


def answers(model: TinyModel, words: range, num: int, *, seed: int) -> list[CorpusRecord]:
    """Return the target's own greedy answers to prompts of some words: a domain."""
    rng = random.Random(seed)
    prompts = torch.tensor([[rng.choice(words) for _ in range(4)] for _ in range(num)])
    output = model.reference.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    return [
        CorpusRecord(
            index=index,
            source="words",
            greedy=True,
            prompt_ids=tuple(row[:4].tolist()),
            output_ids=tuple(row[4:].tolist()),
        )
        for index, row in enumerate(output)
    ]


def trained(target: Path, records: list[CorpusRecord], work: Path) -> float:
    """Train a drafter in `work`/drafter; return its acceptance on held-out answers."""
    work.mkdir()
    with (work / "corpus.jsonl").open("w", encoding="utf-8") as out:
        append_records(out, records)
    job = DraftJob(
        target_name="tiny",
        target_directory=str(target),
        work=str(work),
        out=str(work / "drafter"),
        corpus_of="words",
        layers=(0, 2),
        head_size=101,
        settings=SETTINGS,
        weights="float32",
        device="cpu",
        num_threads=1,
    )
    *_, last = run_job(job)
    assert last.best is not None
    return last.best


def serve(log: TrafficLog, records: list[CorpusRecord]) -> None:
    for record in records:
        submit = Submit(
            request=1,
            prompt_ids=record.prompt_ids,
            sampling=SamplingParams(),
            mode=DecodeMode.SPECULATIVE,
            verifier=VerifierKind.MATCH,
            max_tokens=12,
            draft_length=None,
        )
        log.append(submit, record.output_ids)


def follow_job(target: Path, traffic: Path, drafter: Path) -> FollowJob:
    return FollowJob(
        target_name="tiny",
        target_directory=str(target),
        traffic=str(traffic),
        drafter=str(drafter),
        window=300,
        min_new=1,
        round_steps=100,
        focus=0.5,
        num_rounds=3,
        settings=replace(SETTINGS, steps=1, learning_rate=1e-3),
        poll_s=0.01,
        weights="float32",
        device="cpu",
        num_threads=1,
    )


def test_after_a_change_of_domain_it_recovers(
    model: TinyModel, target: Path, tmp_path: Path, log: TrafficLog
) -> None:
    old, new = range(10), range(60, 75)
    trained(target, answers(model, old, 300, seed=1), tmp_path / "old")
    trained(target, answers(model, new, 300, seed=2), tmp_path / "new")
    unseen = answers(model, new, 100, seed=9)
    drafter, traffic = tmp_path / "old" / "drafter", tmp_path / "traffic"
    job = follow_job(target, traffic, drafter)
    before = check_drafter(drafter, target).version
    aim = Follower(replace(job, drafter=str(tmp_path / "new" / "drafter"))).measure(unseen)
    assert Follower(job).measure(unseen) < 0.7 * aim  # the change is one
    events = run_follow(job)
    for number in range(3):
        serve(log, answers(model, new, 100, seed=3 + number))
        event = next(events)
        assert event.num_answers == 100 * (number + 1)
        assert event.before is not None
        assert event.after is not None
    assert Follower(job).measure(unseen) >= 0.9 * aim
    assert check_drafter(drafter, target).version != before
    assert (drafter / "README.md").read_text().count("## Learned from traffic") == 1


def test_it_waits_until_there_is_enough(
    model: TinyModel, target: Path, tmp_path: Path, log: TrafficLog
) -> None:
    trained(target, answers(model, range(5), 40, seed=1), tmp_path / "run")
    job = follow_job(target, tmp_path / "traffic", tmp_path / "run" / "drafter")
    events = run_follow(replace(job, num_rounds=None))
    assert next(events).before is None
    serve(log, answers(model, range(5), 8, seed=2))
    assert next(events).num_answers == 8
    serve(log, answers(model, range(5), 8, seed=3))
    assert next(events).before is not None


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TrafficLog]:
    made = TrafficLog(tmp_path / "traffic")
    yield made
    made.close()


def test_traffic_is_read_once_across_files_and_half_lines(tmp_path: Path) -> None:
    directory = tmp_path / "traffic"
    reader = TrafficReader(directory)
    assert reader.new() == []
    log = TrafficLog(directory, max_bytes=400)
    records = [
        CorpusRecord(index=i, source="", greedy=True, prompt_ids=(i, 1), output_ids=(2, 3, i))
        for i in range(30)
    ]
    seen = []
    for first in range(0, 30, 2):
        serve(log, records[first : first + 2])
        seen += reader.new()
    assert [record.prompt_ids for record in seen] == [record.prompt_ids for record in records]
    assert seen[0].output_ids == (2, 3, 0)
    log.close()
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["traffic.jsonl", "traffic.old.jsonl"]
    path = directory / "traffic.jsonl"
    assert path.stat().st_mode & 0o077 == 0
    line = '{"index":1,"source":"","greedy":true,"prompt_ids":[1],"output_ids":[2]}\n'
    with path.open("a", encoding="utf-8") as out:
        out.write(line[:20])
    assert reader.new() == []
    with path.open("a", encoding="utf-8") as out:
        out.write(line[20:])
    assert [record.output_ids for record in reader.new()] == [(2,)]
    with path.open("a", encoding="utf-8") as out:
        out.write("no traffic\n")
    with pytest.raises(ConfigError, match=r"traffic\.jsonl: not JSON"):
        reader.new()
    reader.close()


def test_a_directory_that_cannot_be_written_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="traffic cannot be written to"):
        TrafficLog(tmp_path / "file" / "traffic")
