"""The training of a drafter from a corpus: lessons, distillation, and saving the best drafter.

It runs in one process, near the data; the process that starts it reads its events.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parallel.distillation.vocabulary import choose_head_tokens, coverage
from parallel.model.model_config import ModelConfig
from parallel.model.shapes import tensor_shapes
from runtime.distillation.draft_batches import DraftExample
from runtime.distillation.draft_corpus import CorpusRecord, read_corpus
from runtime.distillation.draft_teacher import Lesson, Teacher, teach_corpus
from runtime.distillation.draft_training import DraftTrainer, TrainSettings
from runtime.drafters.draft_checkpoint import save_drafter
from runtime.errors import ConfigError
from runtime.models.checkpoint_files import read_checkpoint
from runtime.weights.checkpoint_source import CheckpointSource

_HELD_OUT_EVERY = 20
_LEAST_WINDOW = 128  # tokens of a prompt's end that any drafter reads
_SHARED = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftJob:
    """The settings of a training job, as plain values."""

    target_name: str
    target_directory: str
    work: str
    """The directory of the corpus, the lessons and the checkpoints."""
    out: str
    """The drafter's directory."""
    corpus_of: str
    """A description of the corpus, for the model card."""
    layers: tuple[int, ...]
    """The target layers that initialize the drafter's layers, one for each."""
    head_size: int
    settings: TrainSettings
    weights: str
    """How the teacher's weights are held; the student trains in float32."""
    device: str
    num_threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """The progress of a job."""

    stage: str
    """"lessons" or "training"."""
    done: int
    total: int
    loss: float | None = None
    acceptance: float | None = None
    """Greedy acceptance on held-out answers; None between evaluations."""
    best: float | None = None
    best_step: int = 0


def run_job(job: DraftJob) -> Iterator[JobEvent]:
    """Train a drafter, or resume its training; yield an event for each step.

    Raises:
        ConfigError: the corpus is too small, or the directory holds another run.
    """
    torch.set_num_threads(job.num_threads)
    work, target = Path(job.work), Path(job.target_directory)
    records = [r for r in read_corpus(work / "corpus.jsonl") if r.output_ids]
    lessons: list[Lesson] = []
    for some in teach_corpus(lambda: _teacher(job), records, work / "lessons"):
        lessons += some
        yield JobEvent(stage="lessons", done=len(lessons), total=len(records))
    training, held_out = _split(records, lessons)
    files = read_checkpoint(target)
    config = replace(files.config, num_layers=len(job.layers), tied_head=False)
    source = CheckpointSource(target, "float32", torch.device("cpu"), tensors=files.tensors)
    counts = _counts(records, config.vocab_size)
    head_tokens = choose_head_tokens(counts, job.head_size)
    trainer = DraftTrainer(
        config,
        _start_weights(source, config, job.layers),
        embedding=source.read("model.embed_tokens.weight"),
        head_token_ids=torch.from_numpy(head_tokens),
        settings=job.settings,
        directory=work,
        device=torch.device(job.device),
    )
    facts = {
        "target": job.target_name,
        "started_from_layers": list(job.layers),
        "head_tokens": job.head_size,
        "head_coverage": round(coverage(counts, head_tokens), 4),
        "training_answers": len(training),
        "training_tokens": sum(len(e.record.output_ids) for e in training),
        "held_out_answers": len(held_out),
        "settings": asdict(job.settings),
    }

    longest = max(len(example.record.prompt_ids) for example in training)
    window = max(_LEAST_WINDOW, longest)

    def keep(best: DraftTrainer, by_source: dict[str, float]) -> None:
        _save(best, job, config, facts | {"step": best.step}, by_source, window)

    teach = _teacher(job).teach if job.settings.on_policy else None
    for step in trainer.run(training, held_out, keep, teach=teach):
        yield JobEvent(
            stage="training",
            done=step.step,
            total=job.settings.steps,
            loss=step.loss,
            acceptance=step.acceptance,
            best=trainer.best,
            best_step=trainer.best_step,
        )


def _teacher(job: DraftJob) -> Teacher:
    device = torch.device(job.device)
    return Teacher(Path(job.target_directory), weights=job.weights, device=device)


def _split(
    records: list[CorpusRecord], lessons: list[Lesson]
) -> tuple[list[DraftExample], list[DraftExample]]:
    """Return the training examples and the held-out greedy examples."""
    training: list[DraftExample] = []
    held_out: list[DraftExample] = []
    for record, lesson in zip(records, lessons, strict=True):
        kept = held_out if record.index % _HELD_OUT_EVERY == 1 else training
        if kept is training or record.greedy:
            kept.append(DraftExample(record, lesson))
    if not training or not held_out:
        raise ConfigError(
            f"{len(records)} answers are too few to train and evaluate on: add files to "
            "`prompts`, or raise `free_prompts`"
        )
    return training, held_out


def _counts(records: list[CorpusRecord], vocab_size: int) -> NDArray[np.int64]:
    tokens = np.concatenate([np.asarray(record.output_ids) for record in records])
    return np.bincount(tokens, minlength=vocab_size)


def _start_weights(
    source: CheckpointSource, config: ModelConfig, layers: tuple[int, ...]
) -> dict[str, Tensor]:
    """Return the weights of these target layers, named by the drafter's layer numbers."""
    weights = {}
    for name in tensor_shapes(config):
        if name in _SHARED:
            continue
        original = name
        if name.startswith("model.layers."):
            number, _, rest = name.removeprefix("model.layers.").partition(".")
            original = f"model.layers.{layers[int(number)]}.{rest}"
        weights[name] = source.read(original)
    return weights


def _save(
    trainer: DraftTrainer,
    job: DraftJob,
    config: ModelConfig,
    facts: dict[str, object],
    acceptance: dict[str, float],
    prompt_window: int,
) -> None:
    student = trainer.student
    save_drafter(
        Path(job.out),
        config=config,
        target_directory=Path(job.target_directory),
        target_name=job.target_name,
        tensors={name: tensor.cpu() for name, tensor in student.named_weights().items()},
        head_token_ids=trainer.head_token_ids,
        head=student.head.detach().cpu() if job.settings.train_head else None,
        card=_card(job, facts, acceptance),
        prompt_window=prompt_window,
    )


def _card(job: DraftJob, facts: dict[str, object], acceptance: dict[str, float]) -> str:
    """Return the model card."""
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in acceptance.items())
    return (
        f"# A drafter for {job.target_name}\n\n"
        f"It proposes tokens that {job.target_name} verifies; the output stays the target's own. "
        f"It shares the target's embedding and scores {job.head_size} of its tokens.\n\n"
        f"Made by `paceline draft train` from the target's own answers to {job.corpus_of}.\n\n"
        "Greedy acceptance on held-out answers, by category or source of the prompt:\n\n"
        f"| prompts | acceptance |\n| --- | --- |\n{rows}\n\n"
        f"```json\n{json.dumps(facts, indent=2)}\n```\n"
    )
