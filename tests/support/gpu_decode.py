"""Measure whole decode steps of random models on a GPU, against the time to read their memory."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from parallel.batch import SequenceRows
from parallel.group import SoloGroup
from parallel.model.backend_choice import choose_backend
from parallel.model.cache import PagedCache
from parallel.model.model_config import ModelConfig, RopeConfig
from parallel.model.shapes import tensor_shapes
from parallel.model.transformer import Decoder
from parallel.weights.stored_matrix import Matrix
from runtime.rank.recorded_forwards import RecordedForwards, record_forwards

PAGE_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes of a model."""

    name: str
    hidden: int
    inner: int
    layers: int
    heads: int
    kv: int
    vocab: int
    dim: int = 128

    @property
    def config(self) -> ModelConfig:
        """The configuration of a Llama of these sizes."""
        return ModelConfig(
            model_type="llama",
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_layers=self.layers,
            num_heads=self.heads,
            num_kv_heads=self.kv,
            head_dim=self.dim,
            max_positions=4096,
            rms_norm_eps=1e-6,
            rope=RopeConfig(theta=5e5),
        )


SHAPES = (
    ModelShape(
        name="1.5B", hidden=1536, inner=8960, layers=28, heads=12, kv=2, vocab=151_936
    ),
    ModelShape(
        name="8B", hidden=4096, inner=14_336, layers=32, heads=32, kv=8, vocab=128_256
    ),
    ModelShape(
        name="32B", hidden=5120, inner=27_648, layers=64, heads=40, kv=8, vocab=152_064
    ),
)  # fmt: skip


class RandomSource:
    """Random weights in bfloat16, made on the device, no larger than keeps a stream finite."""

    def __init__(self, config: ModelConfig, device: str) -> None:
        self._shapes, self._device = tensor_shapes(config), device
        self._generator = torch.Generator(device).manual_seed(0)

    def read(self, name: str) -> Tensor:
        return self._made(self._shapes[name])

    def read_slice(self, name: str, dim: int, first: int, stop: int) -> Tensor:
        shape = list(self._shapes[name])
        shape[dim] = stop - first
        return self._made(shape)

    def read_matrix(self, name: str, dim: int, first: int, stop: int) -> Matrix:
        return self.read_slice(name, dim, first, stop)

    def _made(self, shape: Sequence[int]) -> Tensor:
        made = torch.empty(tuple(shape), dtype=torch.bfloat16, device=self._device)
        return made.uniform_(-1, 1, generator=self._generator).div_(math.sqrt(shape[-1]))


@dataclass(frozen=True, kw_only=True)
class DecodeModel:
    """A model with room for a batch, and what it reads from memory."""

    decoder: Decoder
    cache: PagedCache
    weight_bytes: int
    """Of what a step reads: all but the rows of the embedding."""
    token_bytes: int
    """Of one token in the cache."""


def build(shape: ModelShape, *, max_batch: int, context: int, device: str = "cuda") -> DecodeModel:
    """Return a random model, with sequences of one length in its cache."""
    config, where = shape.config, torch.device(device)
    backend = choose_backend(torch.device("cuda"), torch.bfloat16)
    source = RandomSource(config, device)
    decoder = Decoder(config, source, SoloGroup(), device=where, backend=backend)
    pages = -(-(context + 1) // PAGE_SIZE)
    cache = PagedCache(
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        num_pages=max_batch * pages,
        page_size=PAGE_SIZE,
        dtype=torch.bfloat16,
        device=where,
    )
    for slot in range(max_batch):
        cache.hold(slot, range(slot * pages, (slot + 1) * pages), context)
    read = [s for name, s in tensor_shapes(config).items() if "embed" not in name]
    return DecodeModel(
        decoder=decoder,
        cache=cache,
        weight_bytes=2 * sum(math.prod(size) for size in read),
        token_bytes=2 * config.cache_values_per_token(),
    )


def decode_rows(batch: int, context: int) -> list[SequenceRows]:
    """Return one row for each sequence, after its context."""
    return [
        SequenceRows(slot=slot, start=context, token_ids=(slot,), num_logits=1)
        for slot in range(batch)
    ]


def decode_step(
    model: DecodeModel,
    *,
    batch: int,
    context: int,
    bytes_per_s: float,
    recorded: RecordedForwards | None,
    measure: Callable[[Callable[[], object]], float],
) -> dict[str, float | str]:
    """Return the time of a step of one row for each sequence, and its share of the memory's speed.

    Raises:
        AssertionError: logits are not finite, or a recording changes a bit of them.
    """
    rows = decode_rows(batch, context)

    def step() -> Tensor:
        return model.decoder.forward(rows, model.cache)

    with torch.inference_mode():
        plain = step()
        assert plain.isfinite().all(), "logits are not finite"
        floor_s = (model.weight_bytes + batch * context * model.token_bytes) / bytes_per_s
        plain_s = measure(step)
        figures: dict[str, float | str] = {
            "ms": 1e3 * plain_s,
            "floor ms": 1e3 * floor_s,
            "share of floor": floor_s / plain_s,
        }
        if recorded is None or recorded.shape_of(rows) is None:
            return {**figures, "graph": "none"}
        assert torch.equal(recorded.score(rows).logits, plain), "a recording changes a bit"
        graph_s = measure(lambda: recorded.score(rows))
        return {**figures, "graph ms": 1e3 * graph_s, "graph share": floor_s / graph_s}


def measured_shape(
    shape: ModelShape,
    *,
    batches: Sequence[int],
    context: int,
    bytes_per_s: Callable[[], float],
    measure: Callable[[Callable[[], object]], float],
) -> dict[str, float | str]:
    """Return the figures of a model's decode steps, by batch."""
    model = build(shape, max_batch=max(batches), context=context)
    recorded = record_forwards(model.decoder, model.cache, SoloGroup())
    speed = bytes_per_s()
    figures: dict[str, float | str] = {}
    for batch in batches:
        found = decode_step(
            model,
            batch=batch,
            context=context,
            bytes_per_s=speed,
            recorded=recorded,
            measure=measure,
        )
        figures |= {f"batch {batch}, {name}": value for name, value in found.items()}
    return figures
