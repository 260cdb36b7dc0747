"""One step of training, whatever the scheme: its batch, its update and its report."""

from dataclasses import dataclass

import numpy as np

from parallel.training.adamw import AdamW, Vector, clipped, learning_rate
from parallel.training.sampler import step_samples
from runtime.training.job.job_config import OptimizerConfig, TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What a step did, and how long it took."""

    step: int
    """Steps made, this one included."""
    loss: float
    """Mean over the tokens in the loss, before the step."""
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


def batch_of(config: TrainConfig, step: int, num_samples: int) -> list[int]:
    """Return a step's samples, in order."""
    return step_samples(
        step, num_samples=num_samples, batch=config.optimizer.batch, seed=config.seed
    )


def make_step(
    optimizer: AdamW, total: Vector, num_tokens: int, settings: OptimizerConfig
) -> tuple[float, float]:
    """Update the parameters with a batch's summed gradient; return the learning rate and norm."""
    gradient, norm = clipped(total / np.float32(max(num_tokens, 1)), settings.clip)
    lr = learning_rate(
        optimizer.step,
        num_steps=settings.steps,
        peak=settings.lr,
        warmup=settings.warmup,
        schedule=settings.schedule,
    )
    optimizer.update(
        gradient,
        lr=lr,
        beta1=settings.beta1,
        beta2=settings.beta2,
        weight_decay=settings.weight_decay,
    )
    return lr, norm
