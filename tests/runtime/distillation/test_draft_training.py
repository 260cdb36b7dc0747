"""A drafter's training from corpus to checkpoint, on a tiny target: it learns, and it resumes."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from parallel.distillation.distill import Divergence
from runtime.distillation.draft_corpus import (
    CorpusRecord,
    append_records,
    parse_record,
    read_corpus,
)
from runtime.distillation.draft_job import DraftJob, JobEvent, run_job
from runtime.distillation.draft_teacher import Lesson, Teacher, teach_corpus
from runtime.distillation.draft_training import TrainSettings
from runtime.drafters.draft_checkpoint import check_drafter
from runtime.errors import ConfigError
from tests.support.tiny_transformer import CPU, TinyModel, tiny_model

NUM_RECORDS = 60


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return tiny_model(tie_word_embeddings=True)


@pytest.fixture(scope="module")
def target(model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("target")
    model.reference.save_pretrained(directory)
    return directory


def records() -> list[CorpusRecord]:
    rng = random.Random(2)

    def words(least: int, most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(101) for _ in range(rng.randrange(least, most)))

    return [
        CorpusRecord(
            index=index,
            source="some" if index % 3 else "others",
            greedy=index % 4 > 0,
            prompt_ids=words(1, 9),
            output_ids=words(2, 12),
        )
        for index in range(NUM_RECORDS)
    ]


def job(target: Path, work: Path, **changes: object) -> DraftJob:
    work.mkdir(exist_ok=True)
    with (work / "corpus.jsonl").open("w", encoding="utf-8") as out:
        append_records(out, records())
    settings = TrainSettings(steps=12, batch_tokens=120, learning_rate=3e-3, evaluate_every=4)
    return DraftJob(
        target_name="tiny",
        target_directory=str(target),
        work=str(work),
        out=str(work / "drafter"),
        corpus_of="nothing",
        layers=(0, 2),
        head_size=80,
        settings=replace(settings, **changes),  # type: ignore[arg-type]  # names real fields
        weights="float32",
        device="cpu",
        num_threads=1,
    )


@pytest.mark.parametrize("kind", list(Divergence))
def test_it_learns_and_keeps_the_best(kind: Divergence, target: Path, tmp_path: Path) -> None:
    events = list(run_job(job(target, tmp_path / "run", divergence=kind, steps=40)))
    lessons = [event for event in events if event.stage == "lessons"]
    assert lessons[-1].done == lessons[-1].total == NUM_RECORDS
    steps = [event for event in events if event.stage == "training"]
    assert [event.done for event in steps] == list(range(1, 41))
    losses = [event.loss for event in steps if event.loss is not None]
    plain = losses[:30]  # the last quarter has another loss
    assert sum(plain[-5:]) < sum(plain[:5])
    measured = {event.done: event.acceptance for event in steps if event.acceptance is not None}
    assert steps[-1].best == max(measured.values())
    assert measured[steps[-1].best_step] == steps[-1].best
    drafter = tmp_path / "run" / "drafter"
    manifest = check_drafter(drafter, target)
    assert manifest.head_size == 80
    assert manifest.prompt_window == 128  # no prompt of the training is longer
    assert "some" in (drafter / "README.md").read_text()


@pytest.mark.parametrize("on_policy", [0.0, 0.5])
def test_an_interrupted_run_ends_with_the_same_weights(
    on_policy: float, target: Path, tmp_path: Path
) -> None:
    whole = list(run_job(job(target, tmp_path / "whole", on_policy=on_policy)))
    cut = job(target, tmp_path / "cut", on_policy=on_policy)
    for event in run_job(cut):
        if event.stage == "training" and event.done == 6:
            break  # two steps after its last checkpoint
    resumed = [event for event in run_job(cut) if event.stage == "training"]
    assert [event.done for event in resumed] == list(range(5, 13))
    assert resumed == [event for event in whole if event.stage == "training"][4:]
    files = [tmp_path / name / "checkpoint.safetensors" for name in ("whole", "cut")]
    expected, found = (load_file(file) for file in files)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_on_policy_steps_train_on_its_own_text_scored_by_the_target(
    model: TinyModel, target: Path, tmp_path: Path
) -> None:
    taught: list[tuple[list[CorpusRecord], list[Lesson]]] = []
    teach = Teacher.teach

    def watched(self: Teacher, some: list[CorpusRecord]) -> list[Lesson]:
        lessons = teach(self, some)
        taught.append((some, lessons))
        return lessons

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Teacher, "teach", watched)
        events = list(run_job(job(target, tmp_path / "run", on_policy=1.0)))
    assert events[-1].done == 12
    own = taught[-12:]  # the lessons of the corpus are cached
    known = {record.index: record.prompt_ids + record.output_ids for record in records()}
    for some, lessons in own:
        for record, lesson in zip(some, lessons, strict=True):
            whole = known[record.index]
            assert record.prompt_ids == whole[: len(record.prompt_ids)]
            assert len(record.output_ids) == 16
            logits = model.expected((record.prompt_ids + record.output_ids)[:-1])
            expected = logits[len(record.prompt_ids) - 1 :].argmax(dim=1)
            assert torch.equal(lesson.ids[:, 0], expected)


def test_a_run_with_other_settings_is_not_resumed(target: Path, tmp_path: Path) -> None:
    list(run_job(job(target, tmp_path / "run")))
    with pytest.raises(ConfigError, match="is from a run with other settings"):
        list(run_job(job(target, tmp_path / "run", seed=5)))


def test_lessons_are_the_targets_own_and_are_kept(
    model: TinyModel, target: Path, tmp_path: Path
) -> None:
    taught = records()[:7]
    made = []

    def teacher() -> Teacher:
        made.append(1)
        return Teacher(target, weights="float32", device=CPU)

    (lessons,) = list(teach_corpus(teacher, taught, tmp_path))
    for record, lesson in zip(taught, lessons, strict=True):
        logits = model.expected((record.prompt_ids + record.output_ids)[:-1])
        expected = logits[len(record.prompt_ids) - 1 :].softmax(-1).topk(16)
        torch.testing.assert_close(lesson.probs, expected.values, atol=2e-4, rtol=2e-3)
        assert lesson.ids[:, 0].tolist() == expected.indices[:, 0].tolist()
    (again,) = list(teach_corpus(teacher, taught, tmp_path))
    assert len(made) == 1
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(lessons, again, strict=True))
    list(teach_corpus(teacher, taught[1:], tmp_path))  # other records: lessons computed again
    assert len(made) == 2


def test_an_incomplete_last_line_of_a_corpus_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    assert read_corpus(file) == []
    with file.open("w", encoding="utf-8") as out:
        append_records(out, records()[:3])
        out.write('{"index": 3, "sou')
    assert read_corpus(file) == records()[:3]
    with file.open("a", encoding="utf-8") as out:
        append_records(out, records()[3:4])
    assert read_corpus(file) == records()[:4]
    good = {"index": 9, "source": "a", "greedy": True, "prompt_ids": [1], "output_ids": [2]}
    for wrong, message in (
        ({"index": 9}, "'source' is missing"),
        (good | {"greedy": "false"}, r"greedy is 'false' \(str\): it must be True or False"),
        (good | {"index": 9.7}, r"index is 9.7 \(float\): it must be an integer"),
        (good | {"output_ids": [2, 3.5]}, r"output_ids\[1\] is 3.5"),
        (good | {"output_ids": [2, -3]}, r"output_ids\[1\] is -3: token ids are between 0"),
        (good | {"prompt_ids": "12"}, "prompt_ids is '12'"),
        (good | {"source": 3}, "source is 3: it must be a string"),
    ):
        with pytest.raises(
            ConfigError, match=f"corpus.jsonl, line 5: not a corpus record: .*{message}"
        ):
            parse_record(json.dumps(wrong), f"{file}, line 5")
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps({"index": 9}) + "\n")
    with pytest.raises(ConfigError, match="line 5: not a corpus record"):
        read_corpus(file)


def test_too_few_answers_are_rejected(target: Path, tmp_path: Path) -> None:
    small = job(target, tmp_path / "run")
    with (tmp_path / "run" / "corpus.jsonl").open("w", encoding="utf-8") as out:
        append_records(out, records()[:1])
    with pytest.raises(ConfigError, match="1 answers are too few"):
        list[JobEvent](run_job(small))
