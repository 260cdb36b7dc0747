"""Online training of a drafter on served traffic (OSD, Liu et al., arXiv 2310.07177).

Each round computes the target's probabilities for the latest answers and trains the drafter, with
the largest weights where it was wrong. A version that is better on held-out answers is saved; a
server that watches the drafter's directory loads it.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from parallel.model.shapes import tensor_shapes
from runtime.distillation.draft_batches import DraftExample
from runtime.distillation.draft_corpus import CorpusRecord
from runtime.distillation.draft_teacher import Teacher
from runtime.distillation.draft_training import DraftTrainer, TrainSettings
from runtime.distillation.traffic import TrafficReader
from runtime.drafters.draft_checkpoint import DrafterSource, check_drafter, save_drafter
from runtime.weights.checkpoint_source import CheckpointSource

_HELD_OUT_EVERY = 8
_MIN_ANSWERS = 16
_CARD_SECTION = "\n## Learned from traffic\n"
_SHARED = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowJob:
    """The settings of an online training job, as plain values."""

    target_name: str
    target_directory: str
    traffic: str
    """The directory that a server writes its answers to."""
    drafter: str
    """The directory of the trained drafter, read at the start and written after improvements."""
    window: int
    """The number of latest answers to train on."""
    min_new: int
    """The minimum number of new answers before a round starts."""
    round_steps: int
    focus: float
    num_rounds: int | None
    """The number of rounds; None trains until the process is stopped."""
    settings: TrainSettings
    poll_s: float
    weights: str
    device: str
    num_threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowEvent:
    """The progress of online training."""

    round: int
    """The number of completed rounds."""
    num_answers: int
    """The number of answers read so far."""
    before: float | None = None
    """Acceptance on held-out answers before this round; None while waiting for answers."""
    after: float | None = None
    """Acceptance on held-out answers after this round; None while waiting for answers."""
    version: str | None = None
    """The saved version, if the drafter improved."""


class Follower:
    """Trains a drafter further with its target as the teacher."""

    def __init__(self, job: FollowJob) -> None:
        """Load the drafter and the target.

        Raises:
            ConfigError: the drafter is damaged or belongs to another target.
        """
        self._job = job
        drafter, target = Path(job.drafter), Path(job.target_directory)
        device = torch.device(job.device)
        self._manifest = check_drafter(drafter, target)
        source = DrafterSource(drafter, target, "float32", device)
        self._config = source.config
        embedding = CheckpointSource(target, "float32", device).read(_SHARED[0])
        size = len(source.head_token_ids)
        names = [name for name in tensor_shapes(self._config) if name not in _SHARED]
        self._trainer = DraftTrainer(
            self._config,
            {name: source.read(name) for name in names},
            embedding=embedding,
            head_token_ids=source.head_token_ids,
            settings=job.settings,
            directory=None,
            device=device,
            head=source.read_slice(_SHARED[1], 0, 0, size),
        )
        self._teacher = Teacher(target, weights=job.weights, device=device)
        self._examples: deque[DraftExample] = deque(maxlen=job.window)
        self.num_answers = 0

    def read(self, records: list[CorpusRecord]) -> None:
        """Add new answers; the oldest ones beyond the window are dropped."""
        usable = [record for record in records if record.prompt_ids and record.output_ids]
        usable = usable[-self._job.window :]
        for record, lesson in zip(usable, self._teacher.teach(usable), strict=True):
            self._examples.append(DraftExample(record, lesson))
        self.num_answers += len(records)

    def measure(self, records: list[CorpusRecord]) -> float:
        """Return the drafter's greedy acceptance on `records`."""
        lessons = self._teacher.teach(records)
        examples = [DraftExample(r, lesson) for r, lesson in zip(records, lessons, strict=True)]
        return self._trainer.evaluate(examples)["all"]

    @property
    def can_learn(self) -> bool:
        """Whether there are enough answers to train and evaluate on."""
        return len(self._examples) >= _MIN_ANSWERS

    def round(self) -> tuple[float, float]:
        """Train for a round; return the acceptance on held-out answers before and after it.

        The old weights are restored if acceptance did not improve.
        """
        examples = list(self._examples)
        kept = [e for i, e in enumerate(examples) if i % _HELD_OUT_EVERY == 0]
        learned = [e for i, e in enumerate(examples) if i % _HELD_OUT_EVERY]
        before = self._trainer.evaluate(kept)["all"]
        weights = self._weights()
        self._trainer.take_steps(learned, self._job.round_steps, focus=self._job.focus)
        after = self._trainer.evaluate(kept)["all"]
        if after <= before:
            with torch.no_grad():
                for name, parameter in self._trainer.student.named_parameters():
                    parameter.copy_(weights[name])
        return before, after

    def save(self, acceptance: float) -> str:
        """Save the drafter and return its version."""
        job, student = self._job, self._trainer.student
        drafter = Path(job.drafter)
        card = (drafter / "README.md").read_text(encoding="utf-8").partition(_CARD_SECTION)[0]
        manifest = save_drafter(
            drafter,
            config=self._config,
            target_directory=Path(job.target_directory),
            target_name=self._manifest.target,
            tensors={name: tensor.cpu() for name, tensor in student.named_weights().items()},
            head_token_ids=self._trainer.head_token_ids,
            head=student.head.detach().cpu() if self._manifest.trained_head else None,
            prompt_window=self._manifest.prompt_window,
            card=f"{card}{_CARD_SECTION}\nFrom {self.num_answers} answers; greedy acceptance on "
            f"the latest of them, held out: {acceptance:.3f}.\n",
        )
        return manifest.version

    def _weights(self) -> dict[str, Tensor]:
        named = self._trainer.student.named_parameters()
        return {name: parameter.detach().clone() for name, parameter in named}


def run_follow(job: FollowJob) -> Iterator[FollowEvent]:
    """Train on the traffic, for `num_rounds` rounds or forever; yield an event for each step.

    Raises:
        ConfigError: the drafter cannot be used, or the traffic file is invalid.
    """
    torch.set_num_threads(job.num_threads)
    follower = Follower(job)
    with closing(TrafficReader(Path(job.traffic))) as reader:
        yield from _rounds(job, reader, follower)


def _rounds(job: FollowJob, reader: TrafficReader, follower: Follower) -> Iterator[FollowEvent]:
    done = unused = 0
    while job.num_rounds is None or done < job.num_rounds:
        records = reader.new()
        follower.read(records)
        unused += len(records)
        if not follower.can_learn or unused < job.min_new:
            yield FollowEvent(round=done, num_answers=follower.num_answers)
            time.sleep(job.poll_s)
            continue
        before, after = follower.round()
        done, unused = done + 1, 0
        version = follower.save(after) if after > before else None
        yield FollowEvent(
            round=done,
            num_answers=follower.num_answers,
            before=before,
            after=after,
            version=version,
        )
