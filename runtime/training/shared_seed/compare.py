"""Learning curves of one job by three methods: byte scalars, exact scalars, first order.

All have the same budget of sequences. The first two share directions and samples and differ only in
the rounding of scalars; the third is AdamW on gradients, whose sequences cost a backward pass too.
A run that was cut resumes from its last measurement.
"""

import json
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from parallel.training.adamw import AdamW, clipped
from parallel.training.learning_rate import learning_rate
from parallel.training.sampler import step_samples
from parallel.training.shared_seed.byte_codec import FRACTION_BITS, decode, encode
from parallel.training.shared_seed.directions import weighted_sum
from runtime.errors import ConfigError
from runtime.files.documents import read_text
from runtime.files.strict_json import parse_json
from runtime.training.job.job_config import TrainConfig
from runtime.training.shared_seed.evaluate import LossWork
from runtime.training.shared_seed.member import Member, start_replica
from runtime.training.shared_seed.points import PointsModel
from runtime.training.shared_seed.seed_log import Header
from runtime.training.shared_seed.shared_seed_job import terms_of
from runtime.training.trainable import Trainable
from runtime.training.training_data import Sample

BYTE, EXACT, FIRST_ORDER = "byte", "exact", "first-order"
Weights = Tensor
METHODS = (BYTE, EXACT, FIRST_ORDER)
_ONE = float(1 << FRACTION_BITS)
_UNIT_KEPT = 0.9


def use_threads(num: int) -> None:
    """Set the number of threads that this process computes on."""
    torch.set_num_threads(num)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A point of a curve."""

    method: str
    step: int
    num_rows: int
    """Sequences that went through the model."""
    loss: float
    """Mean training loss since the previous mark."""
    measured: dict[str, float]


class Scalars:
    """Steps along directions, with scalars of one byte or exact ones."""

    def __init__(
        self,
        config: TrainConfig,
        header: Header,
        model: PointsModel,
        samples: Sequence[Sample],
        *,
        exact: bool,
    ) -> None:
        self._config = config
        self._exact = exact
        self._seed = header.seed
        self._member = Member(0, header, start_replica(header, model.points))
        terms = terms_of(config)
        self._work = LossWork(model, samples, terms, seed=header.seed, eps=header.eps)
        self._unit = 1.0
        self.num_rows = 0

    @property
    def step(self) -> int:
        """Number of steps made."""
        return self._member.round

    @property
    def theta(self) -> Tensor:
        """The weights."""
        return self._member.replica.theta

    def advance(self) -> float:
        """Make a step; return its loss."""
        config, replica = self._config, self._member.replica
        directions = self._member.directions(config.shared_seed.directions)
        found = self._work(self._member)
        self.num_rows += found.num_rows
        if self._exact:  # 24 bits below the unit: as exact as the losses are
            values = [round(g / self._unit * _ONE) for g in found.projected_grads]
        else:
            values = [decode(encode(g, self._unit)) for g in found.projected_grads]
        size = math.sqrt(sum(v * v for v in values) / len(values))
        lr = _rate(config, self.step)
        total = weighted_sum(self._seed, directions, values, replica.theta.numel())
        factor = np.float32(lr / max(size, 1.0) / len(values))
        replica.theta = replica.theta - total.to(torch.float32) * float(factor)
        replica.next_round += 1
        self._unit = _UNIT_KEPT * self._unit + (1 - _UNIT_KEPT) * size * self._unit / _ONE
        return found.loss

    def state(self) -> dict[str, np.ndarray]:
        """Return the arrays from which `restore` resumes."""
        numbers = np.array([self.step, self.num_rows, self._unit])
        return {"theta": self.theta.numpy(), "numbers": numbers}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Resume from a state."""
        step, rows, unit = state["numbers"].tolist()
        self._member.replica.theta = torch.from_numpy(state["theta"].copy())
        self._member.replica.next_round = int(step)
        self.num_rows, self._unit = int(rows), unit


class FirstOrder:
    """AdamW on the gradients of the same adapters."""

    def __init__(
        self,
        config: TrainConfig,
        trainable: Trainable,
        samples: Sequence[Sample],
        start: Tensor,
        lr: float,
    ) -> None:
        """Start from the weights that the other methods start from."""
        self._config = config
        self._trainable = trainable
        self._samples = samples
        self._lr = lr
        self._optimizer = AdamW.start(start.numpy().copy())
        self.num_rows = 0

    @property
    def step(self) -> int:
        """Number of steps made."""
        return self._optimizer.step

    @property
    def theta(self) -> Tensor:
        """The weights."""
        return torch.from_numpy(self._optimizer.parameters)

    def advance(self) -> float:
        """Make a step; return its loss."""
        optimizer = self._config.optimizer
        indices = step_samples(
            self.step,
            num_samples=len(self._samples),
            batch=optimizer.batch,
            seed=self._config.seed,
        )
        self._trainable.set(self._optimizer.parameters)
        gradient, loss, num = self._trainable.gradient([self._samples[i] for i in indices])
        gradient, _ = clipped(gradient / np.float32(num), optimizer.clip)
        self._optimizer.update(
            gradient,
            lr=self._lr,
            beta1=optimizer.beta1,
            beta2=optimizer.beta2,
            weight_decay=optimizer.weight_decay,
        )
        self.num_rows += len(indices)
        return loss / num

    def state(self) -> dict[str, np.ndarray]:
        """Return the arrays from which `restore` resumes."""
        o = self._optimizer
        numbers = np.array([o.step, self.num_rows])
        return {"theta": o.parameters, "first": o.first, "second": o.second, "numbers": numbers}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Resume from a state."""
        step, rows = (int(x) for x in state["numbers"])
        self._optimizer = AdamW(state["theta"], state["first"], state["second"], step)
        self.num_rows = rows


def curve(
    method: Scalars | FirstOrder,
    name: str,
    folder: Path,
    measure: Callable[[Tensor], dict[str, float]],
    *,
    budget: int,
    every: int,
) -> Iterator[Mark]:
    """Yield the marks of a curve as they are reached, those of an earlier run first.

    Args:
        method: the method to run.
        name: name of the method.
        folder: where marks and states are kept.
        measure: evaluates weights.
        budget: sequences to learn from.
        every: sequences between two marks.
    """
    marks, state = folder / f"{name}.jsonl", folder / f"{name}.npz"
    if marks.exists() and state.exists():
        known = _read_marks(marks)
        try:
            with state.open("rb") as opened, np.load(opened) as found:
                method.restore({key: found[key] for key in found})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{state} is damaged ({error}): remove it and {marks}") from error
        yield from known
    else:
        yield _mark(method, name, 0.0, measure, marks, state)
    losses: list[float] = []
    mark_at = method.num_rows + every
    while method.num_rows < budget:
        losses.append(method.advance())
        if method.num_rows >= mark_at or method.num_rows >= budget:
            mean = sum(losses) / len(losses)
            yield _mark(method, name, mean, measure, marks, state)
            losses, mark_at = [], method.num_rows + every


def _read_marks(file: Path) -> list[Mark]:
    marks = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        where = f"{file}, line {number}"
        try:
            marks.append(Mark(**parse_json(line, where, finite=False)))
        except TypeError as error:
            raise ConfigError(f"{where} is not a mark of a curve ({error})") from error
    return marks


def _mark(
    method: Scalars | FirstOrder,
    name: str,
    loss: float,
    measure: Callable[[Tensor], dict[str, float]],
    marks: Path,
    state: Path,
) -> Mark:
    mark = Mark(
        method=name,
        step=method.step,
        num_rows=method.num_rows,
        loss=round(loss, 4),
        measured=measure(method.theta),
    )
    fresh = state.with_suffix(".new.npz")
    np.savez(fresh, **method.state())  # type: ignore[arg-type]  # its stubs take the names for flags
    fresh.replace(state)
    with marks.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(mark)) + "\n")
    return mark


def _rate(config: TrainConfig, step: int) -> float:
    optimizer = config.optimizer
    return learning_rate(
        step,
        num_steps=optimizer.steps,
        peak=optimizer.lr,
        warmup=optimizer.warmup,
        schedule=optimizer.schedule,
        cycles=optimizer.cycles,
    )
