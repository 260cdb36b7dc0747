"""Replays a run's log, and writes its result."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from parallel.training.adamw import Vector
from parallel.training.shared_seed.step import AnyReplica, RoundCommit
from runtime.errors import ConfigError
from runtime.models.checkpoint_files import read_checkpoint
from runtime.models.transformers_model import read_floats
from runtime.training.adapters.saving import save_adapter, save_whole
from runtime.training.job.job_config import LoraConfig
from runtime.training.shared_seed.member import start_replica
from runtime.training.shared_seed.points import LINEAR, Points, PointsModel
from runtime.training.shared_seed.seed_log import Header, Records, read_log
from runtime.training.shared_seed.shared_seed_job import model_digest

Watch = Callable[[Iterable[RoundCommit], int], Iterable[RoundCommit]]
"""Yields the given commits, and may show progress; the number of commits is the second argument."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The result of a log."""

    header: Header
    base: Path
    """Directory of the model that the run started from."""
    points: Points
    replica: AnyReplica
    num_scalars: int
    log_bytes: int
    num_cut_bytes: int
    """Bytes of an incomplete last record, which was dropped."""
    num_machines: int

    @property
    def weights(self) -> dict[str, Vector]:
        """The trained weights by name."""
        named = self.points.named(self.replica.theta)
        return {name: tensor.cpu().numpy() for name, tensor in named.items()}


def check_base(header: Header, directory: Path) -> None:
    """Raise ConfigError for a model that is not the run's.

    Raises:
        ConfigError: its weights have another digest.
    """
    digest = model_digest(directory)
    if digest != header.model_digest:
        raise ConfigError(
            f"checksum mismatch: the weights in {directory} have SHA-256 {digest.hex()[:16]}, "
            f"the run started from {header.model} with {header.model_digest.hex()[:16]}"
        )


def replay(file: Path, base: Path, watch: Watch = lambda commits, _: commits) -> Replayed:
    """Apply all steps of a log to its base.

    Raises:
        ConfigError: the log is damaged, or the base is another model.
    """
    records: Records = read_log(file)
    check_base(records.header, base)
    is_linear = records.header.weights == LINEAR
    model = PointsModel.load(base, records.header, empty=not is_linear)
    if model.points.space.size != records.header.size:
        raise ConfigError(
            f"{file}: {records.header.size} trained weights by its header, "
            f"{model.points.space.size} in {base}: the log is damaged, or of another version"
        )
    replica = start_replica(records.header, model.points)
    for commit in watch(records.commits, len(records.commits)):
        replica.apply(commit)
    return Replayed(
        header=records.header,
        base=base,
        points=model.points,
        replica=replica,
        num_scalars=sum(commit.num_scalars for commit in records.commits),
        log_bytes=records.num_bytes,
        num_cut_bytes=file.stat().st_size - records.num_bytes,
        num_machines=len(records.machines),
    )


def write_result(out: Path, points: Points, theta: Tensor, header: Header, base: Path) -> None:
    """Write an adapter for `peft`, or a whole model if linear weights were trained."""
    weights = {name: tensor.cpu().numpy() for name, tensor in points.named(theta).items()}
    if header.weights == LINEAR:
        save_whole(out, all_weights(base) | weights, base, has_tied_head=None)
        return
    save_adapter(out, weights, adapter_part(header), str(base))


def adapter_part(header: Header) -> LoraConfig:
    """Return the settings of a run's adapters."""
    return LoraConfig(rank=header.rank, alpha=header.alpha, targets=list(header.targets))


def all_weights(base: Path) -> dict[str, Vector]:
    """Return a checkpoint's weights in float32, by name."""
    return {name: tensor.numpy() for name, tensor in read_floats(read_checkpoint(base)).items()}
