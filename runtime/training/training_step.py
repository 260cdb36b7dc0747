"""One step of training, whatever the scheme: its batch, its update and its report."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from parallel.training.adamw import AdamW, Vector, clipped, is_finite
from parallel.training.learning_rate import learning_rate
from parallel.training.sampler import mixed_samples, split_evenly, step_samples
from runtime.errors import PacelineError
from runtime.training.chunk_work import ChunkResult
from runtime.training.job.job_config import TrainConfig
from runtime.training.training_data import Sample

_NAMED = 3


class NotFiniteError(PacelineError):
    """A number that training depends on is not finite; nothing was changed by it."""


class DivergedError(PacelineError):
    """The loss stays far above its start."""


@dataclass(frozen=True, slots=True)
class SampleSizes:
    """What a step's plan depends on, of all samples."""

    num_tokens: Sequence[int]
    num_loss_tokens: Sequence[int]
    num_of_files: Sequence[int] = ()
    """Samples of each file, one file after another, where the job mixes several."""
    are_pairs: bool = False
    """Whether each sample is a preference, which has one loss."""

    @classmethod
    def of(cls, samples: Sequence[Sample], num_of_files: Sequence[int] = ()) -> "SampleSizes":
        """Return the sizes of samples."""
        return cls(
            num_tokens=[sum(len(one.token_ids) for one in s.answers) for s in samples],
            num_loss_tokens=[sum(one.num_loss_tokens for one in s.answers) for s in samples],
            num_of_files=num_of_files,
            are_pairs=any(sample.rejected is not None for sample in samples),
        )

    def loss_tokens_of(self, ids: Iterable[int]) -> int:
        """Return the tokens in the loss of some samples."""
        return sum(self.num_loss_tokens[index] for index in ids)

    def losses_of(self, ids: Sequence[int]) -> int:
        """Return how many losses the sum over some samples has: pairs, or tokens in the loss."""
        return len(ids) if self.are_pairs else self.loss_tokens_of(ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What a step did, and how long it took."""

    step: int
    """Steps made, this one included."""
    loss: float
    """Mean over the tokens in the loss, or over pairs, before the step; may be infinite or NaN if
    skipped."""
    lr: float
    gradient_norm: float
    num_tokens: int
    seconds: float
    num_repeated: int
    """Chunks that were started a second time."""
    num_stragglers: int
    """Workers that were late; with a queue, those whose chunks another worker returned."""
    num_lost: int
    """Workers that died or were replaced because they were silent."""
    trial: int = 0
    """Number of the model, where several train in turn."""
    waited: bool = False
    """Whether the round had to wait for a straggler because its pattern was not tolerated."""
    skipped: bool = False
    """Whether the step changed nothing, because its loss or gradient was not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchGradient:
    """The sums over a step's batch."""

    total: Vector
    """Sum of the gradients of all losses; the step scales it in place."""
    loss_sum: float
    num_losses: int
    """Losses in the sums: tokens, or pairs of a preference."""
    not_finite: Sequence[str] = ()
    """The parts, as "chunk 3", whose own sums are not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepUpdate:
    """What a step's update did."""

    loss: float
    lr: float
    gradient_norm: float
    skipped: bool


def batch_of(config: TrainConfig, step: int, sizes: SampleSizes) -> list[int]:
    """Return a step's samples, in order."""
    if config.data.mix:
        return mixed_samples(
            step,
            sizes=sizes.num_of_files,
            shares=list(config.data.mix.values()),
            batch=config.optimizer.batch,
            seed=config.seed,
            window=config.data.buffer,
        )
    return step_samples(
        step,
        num_samples=len(sizes.num_tokens),
        batch=config.optimizer.batch,
        seed=config.seed,
        window=config.data.buffer,
    )


def microbatches_of(
    config: TrainConfig, ids: Sequence[int], num_parts: int, sizes: SampleSizes
) -> list[list[int]]:
    """Return a part of a batch in so many microbatches, by length if the job groups samples."""
    if config.data.batching == "grouped":
        ids = sorted(ids, key=lambda index: sizes.num_tokens[index])  # stable: no ties by chance
    return split_evenly(list(ids), num_parts)


def is_finite_result(result: ChunkResult) -> bool:
    """Return whether a chunk's loss and gradient are finite."""
    has_finite_gradient = result.gradient is None or is_finite(result.gradient)
    return math.isfinite(result.loss_sum) and has_finite_gradient


def make_step(optimizer: AdamW, batch: BatchGradient, config: TrainConfig) -> StepUpdate:
    """Update the parameters with a batch's summed gradient.

    Raises:
        NotFiniteError: the loss, the gradient or the update is not finite, and the job is to stop
            then; the optimizer is unchanged.
    """
    settings = config.optimizer
    count = max(batch.num_losses, 1)
    loss = batch.loss_sum / count
    gradient = batch.total
    gradient /= np.float32(count)
    gradient, norm = clipped(gradient, settings.clip)
    lr = learning_rate(
        optimizer.step,
        num_steps=settings.steps,
        peak=settings.lr,
        warmup=settings.warmup,
        schedule=settings.schedule,
        cycles=settings.cycles,
    )
    fault = _fault(batch, loss, norm)
    if fault is None:
        try:
            optimizer.update(
                gradient,
                lr=lr,
                beta1=settings.beta1,
                beta2=settings.beta2,
                weight_decay=settings.weight_decay,
            )
        except FloatingPointError:
            fault = f"its update, at the learning rate {lr:g}, has numbers that are not finite"
    if fault is not None:
        if config.on_nonfinite == "stop":
            raise NotFiniteError(
                f"step {optimizer.step + 1}: {fault}. The state after step {optimizer.step} is "
                "kept; train with a lower `optimizer.lr` in another `out`, or resume with "
                '`on_nonfinite` "skip", which leaves such steps out'
            )
        optimizer.skip()
    return StepUpdate(loss=loss, lr=lr, gradient_norm=norm, skipped=fault is not None)


def _fault(batch: BatchGradient, loss: float, norm: float) -> str | None:
    """Return what is not finite in a step's sums; None if all is."""
    if batch.not_finite:
        shown = list(batch.not_finite[:_NAMED])
        if len(batch.not_finite) > _NAMED:
            shown.append(f"{len(batch.not_finite) - _NAMED} more")
        return f"the loss or the gradient of {' and '.join(shown)} is not finite"
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    return None if math.isfinite(norm) else f"the gradient's norm is {norm}"
