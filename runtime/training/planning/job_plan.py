"""The memory and the traffic of a fine-tuning job, before any worker starts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from parallel.model.model_config import ModelConfig
from parallel.model.shapes import tensor_shapes
from runtime.models.checkpoint_files import read_checkpoint, read_model_config
from runtime.training.adapters.base_model import load_shapes
from runtime.training.job.job_config import TrainConfig
from runtime.training.planning.traced_chunk import ChunkShape, chunk_memory
from runtime.training.trainable import lora_weights
from runtime.training.training_step import SampleSizes

_FLOAT_BYTES = 4
_WEIGHT_FILES = "*.safetensors"
_MOMENTS = 2
_UPDATED = 3
"""Vectors that an update writes beside the old ones: parameters and moments."""
_AHEAD = 2
"""Sums of chunks for each worker that may wait for an earlier one."""
_ENTERED_AND_LEFT = 2
"""Blocks of a layer, each with one exchange on the way there and one on the way back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """What the processes of a job hold at most, and what they send in a step; all in bytes."""

    num_trained: int
    """Numbers that are trained."""
    num_workers: int
    num_ranks: int
    """Ranks of each worker."""
    shape: ChunkShape
    """The largest chunk."""
    worker: Mapping[str, int]
    """Memory of a rank of a worker, by part."""
    driver: Mapping[str, int]
    """Memory of the driver, by part."""
    shared: Mapping[str, int]
    """Vectors in flight, in the shared memory of a node that holds everything."""
    step: Mapping[str, int]
    """Bytes sent in a step, by purpose."""

    @property
    def worker_bytes(self) -> int:
        """Memory of a rank."""
        return sum(self.worker.values())

    @property
    def driver_bytes(self) -> int:
        """Memory of the driver's node, workers left out."""
        return sum(self.driver.values()) + sum(self.shared.values())

    @property
    def vector_bytes(self) -> int:
        """Bytes of a vector of all trained numbers."""
        return self.num_trained * _FLOAT_BYTES

    def transfer_s(self, bytes_per_s: float) -> float:
        """Return the seconds in which a step's vectors pass through the driver, at a bandwidth."""
        return (self.step["parameters"] + self.step["gradients"]) / bytes_per_s


def plan_job(
    directory: Path,
    config: TrainConfig,
    *,
    sizes: SampleSizes | None = None,
    num_trained: int | None = None,
    libraries_bytes: int = 0,
) -> JobPlan:
    """Return the plan of a job with method lora or full.

    Args:
        directory: the model's; a config.json suffices.
        config: the job.
        sizes: of its samples; None takes every sample to be as long as allowed and wholly learned.
        num_trained: the numbers that are trained, where they were counted already.
        libraries_bytes: what each process holds before it loads anything.

    Raises:
        ConfigError: the model is not supported, or lacks the layers of the adapters.
    """
    model = model_of(directory)
    if num_trained is None:
        num_trained = count_trained(directory, model, config)
    shape = largest_chunk(config, sizes)
    workers, num_ranks = config.workers.count, config.workers.tp
    chunk = chunk_memory(directory, model, config, shape, tp=num_ranks)
    vector = num_trained * _FLOAT_BYTES
    is_full = config.method == "full"
    own = -(-vector // num_ranks)
    sent = workers if config.round_scheme is not None else config.num_chunks
    sums = _AHEAD * workers if config.is_queued else sent
    waiting = min(sums, sent)
    return JobPlan(
        num_trained=num_trained,
        num_workers=workers,
        num_ranks=num_ranks,
        shape=shape,
        worker={
            "libraries": libraries_bytes,
            "base weights": 0 if is_full else chunk.weights,
            "trained weights": chunk.weights if is_full else own,
            # The gradients by weight, as one vector, and the sum of earlier chunks of a round.
            "gradients": own + vector * (1 if config.is_queued else 2),
            "activations": chunk.activations,
            "logits": chunk.logits,
            "conversion": chunk.conversion,
        },
        driver={
            "libraries": libraries_bytes,
            "trained weights": vector,
            "optimizer state": _MOMENTS * vector,
            "update": _UPDATED * vector,
            "state being written": _UPDATED * vector,
            "gradient sum": vector,
        },
        shared={"parameters": vector, "sums in flight": waiting * vector},
        step=_traffic(config, model, shape, num_ranks, vector=vector, sent=sent),
    )


def model_of(directory: Path) -> ModelConfig:
    """Return a model's configuration, with or without its weights.

    Raises:
        ConfigError: it is not supported.
    """
    if any(directory.glob(_WEIGHT_FILES)):
        return read_checkpoint(directory).config
    return read_model_config(directory)


def count_trained(directory: Path, model: ModelConfig, config: TrainConfig) -> int:
    """Return how many numbers a job trains; reads no weights.

    Raises:
        ConfigError: the model has no layers of the configured names.
    """
    if config.method == "full":
        return sum(math.prod(shape) for shape in tensor_shapes(model).values())
    weights = lora_weights(load_shapes(directory), config.lora, config.seed)
    return sum(weight.numel() for weight in weights.values())


def largest_chunk(config: TrainConfig, sizes: SampleSizes | None) -> ChunkShape:
    """Return the shape of a chunk of a job's longest samples."""
    rows, length = config.optimizer.microbatch, config.data.max_length
    num_learned = rows * (length - 1)
    if sizes is not None:
        length = max(sizes.num_tokens)
        num_learned = sum(_largest(sizes.num_loss_tokens, rows))
        if config.data.batching == "packed":
            total = sum(_largest(sizes.num_tokens, rows))
            return ChunkShape(rows=1, length=total, num_learned=num_learned, is_masked=True)
    if config.data.batching == "packed":
        return ChunkShape(rows=1, length=rows * length, num_learned=num_learned, is_masked=True)
    return ChunkShape(rows=rows, length=length, num_learned=num_learned, is_masked=rows > 1)


def _largest(numbers: Sequence[int], count: int) -> list[int]:
    """Return the largest of some numbers; a sample may be drawn again where there are few."""
    ordered = sorted(numbers, reverse=True)
    return (ordered * -(-count // len(ordered)))[:count]


def _traffic(
    config: TrainConfig,
    model: ModelConfig,
    shape: ChunkShape,
    num_ranks: int,
    *,
    vector: int,
    sent: int,
) -> dict[str, int]:
    """Return the bytes of a step: between driver and workers, and between ranks of a worker."""
    found = {"parameters": config.workers.count * vector, "gradients": sent * vector}
    if num_ranks > 1:
        states = shape.num_tokens * model.hidden_size * _FLOAT_BYTES
        passes = 3 if config.gradient_checkpointing else 2
        each = passes * _ENTERED_AND_LEFT * model.num_layers * states
        found["between ranks"] = config.num_chunks * num_ranks * each
    return found
