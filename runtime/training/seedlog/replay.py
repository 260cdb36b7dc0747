"""A run's result from its log: replayed, written, and compared with what somebody published."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from parallel.training.adamw import Vector
from parallel.training.seedlog.step import AnyReplica, Commit
from runtime.errors import ConfigError
from runtime.models.tensors import read_tensor_index
from runtime.training.checkpoint import save_adapter, save_whole
from runtime.training.config import LoraConfig, TrainConfig
from runtime.training.seedlog.job import model_digest
from runtime.training.seedlog.log import Header, Records, read_log
from runtime.training.seedlog.member import start_replica
from runtime.training.seedlog.points import LINEAR, Points, PointsModel

Watch = Callable[[Iterable[Commit], int], Iterable[Commit]]
"""Passes commits on, and may show how far they are; is told how many there are."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a log comes to."""

    header: Header
    points: Points
    replica: AnyReplica
    num_scalars: int
    log_bytes: int
    num_machines: int

    @property
    def weights(self) -> dict[str, Vector]:
        """The weights that learnt, by name."""
        named = self.points.named(self.replica.theta)
        return {name: tensor.cpu().numpy() for name, tensor in named.items()}


def check_base(header: Header, directory: Path) -> None:
    """Refuse a model that is not the run's.

    Raises:
        ConfigError: its weights have another digest.
    """
    digest = model_digest(directory)
    if digest != header.model_digest:
        raise ConfigError(
            f"{directory} is another model than the run's ({header.model}): its weights have "
            f"SHA-256 {digest.hex()[:16]}, the run began from {header.model_digest.hex()[:16]}"
        )


def replay(file: Path, base: Path, watch: Watch = lambda commits, _: commits) -> Replayed:
    """Make all steps of a log, from its base on.

    Raises:
        ConfigError: the log is damaged, or the base is another model.
    """
    records: Records = read_log(file)
    check_base(records.header, base)
    is_linear = records.header.weights == LINEAR
    model = PointsModel.load(base, records.header, empty=not is_linear)
    replica = start_replica(records.header, model.points)
    for commit in watch(records.commits, len(records.commits)):
        replica.apply(commit)
    return Replayed(
        header=records.header,
        points=model.points,
        replica=replica,
        num_scalars=sum(commit.num_scalars for commit in records.commits),
        log_bytes=records.num_bytes,
        num_machines=len(records.machines),
    )


def write_result(out: Path, points: Points, theta: Tensor, header: Header, base: Path) -> None:
    """Write an adapter as `peft` loads it, or, where linear weights learnt, a whole model."""
    weights = {name: tensor.cpu().numpy() for name, tensor in points.named(theta).items()}
    if header.weights == LINEAR:
        save_whole(out, _all_weights(base) | weights, base, has_tied_head=None)
        return
    lora = LoraConfig(rank=header.rank, alpha=header.alpha, targets=list(header.targets))
    save_adapter(out, weights, TrainConfig(lora=lora), str(base))


def difference(result: Path, replayed: Replayed) -> str | None:
    """Say where a published result is not what its log comes to, bit for bit; None if nowhere.

    Raises:
        ConfigError: there is no result there.
    """
    is_linear = replayed.header.weights == LINEAR
    file = result / ("model.safetensors" if is_linear else "adapter_model.safetensors")
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    prefix, suffix = ("", "") if is_linear else ("base_model.model.", ".weight")
    wanted = {f"{prefix}{name}{suffix}": w for name, w in replayed.weights.items()}
    if not is_linear and found.keys() != wanted.keys():
        return f"other layers: {', '.join(sorted(found.keys() ^ wanted.keys())[:3])}"
    for name, weight in wanted.items():
        if name not in found:
            return f"{name} is missing"
        mine = np.ascontiguousarray(weight).view(np.uint32)
        there = found[name].contiguous()
        if there.dtype != torch.float32 or there.shape != weight.shape:
            return f"{name} has other numbers: {there.dtype}, {tuple(there.shape)}"
        other = there.numpy().view(np.uint32)
        if not np.array_equal(mine, other):
            return f"{name}: {int((mine != other).sum())} of {mine.size} numbers differ"
    return None


def _all_weights(base: Path) -> dict[str, Vector]:
    weights: dict[str, Vector] = {}
    for file in sorted({entry.file for entry in read_tensor_index(base).values()}):
        with safe_open(file, framework="pt") as opened:
            names = opened.keys()
            weights |= {name: opened.get_tensor(name).float().numpy() for name in names}
    return weights
