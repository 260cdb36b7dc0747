"""Tiny random models with transformers as their oracle, and ranks that are threads."""

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from parallel.batch import SequenceRows
from parallel.group import Group, SoloGroup
from parallel.model.cache import SoleCache
from parallel.model.model_config import ModelConfig
from parallel.model.transformer import Decoder
from parallel.weights.stored_matrix import Matrix
from runtime.models.hf_config import parse_config

T = TypeVar("T")
CPU = torch.device("cpu")
DEADLINE_S = 120
"""Of ranks for one another."""
SIZES = {
    "vocab_size": 101,
    "hidden_size": 36,
    "intermediate_size": 52,
    "num_hidden_layers": 3,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
KINDS: dict[str, type[PretrainedConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}


class TableSource:
    """Weights from a dictionary."""

    def __init__(self, tensors: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
        self._tensors = {name: tensor.detach().to(dtype) for name, tensor in tensors.items()}

    def on(self, device: str, dtype: torch.dtype = torch.float32) -> "TableSource":
        """Return the weights on a device, in a dtype."""
        return TableSource({name: t.to(device) for name, t in self._tensors.items()}, dtype)

    def read(self, name: str) -> Tensor:
        return self._tensors[name].clone()

    def read_slice(self, name: str, dim: int, first: int, stop: int) -> Tensor:
        return self._tensors[name].narrow(dim, first, stop - first).clone()

    def read_matrix(self, name: str, dim: int, first: int, stop: int) -> Matrix:
        return self.read_slice(name, dim, first, stop)


@dataclass(frozen=True)
class TinyModel:
    """A random model as transformers and as we see it."""

    reference: PreTrainedModel
    config: ModelConfig
    source: TableSource

    def decoder(
        self,
        group: Group | None = None,
        layers: Sequence[int] | None = None,
        *,
        layer_parallel_from: int | None = None,
    ) -> Decoder:
        return Decoder(
            self.config,
            self.source,
            group or SoloGroup(),
            layers=layers,
            layer_parallel_from=layer_parallel_from,
            device=CPU,
        )

    def expected(self, token_ids: Sequence[int]) -> Tensor:
        """Return transformers' logits after every token, [tokens, vocab_size]."""
        with torch.inference_mode():
            logits: Tensor = self.reference(torch.tensor([token_ids]), use_cache=False).logits
        return logits[0]


def tiny_model(kind: str = "llama", **changes: object) -> TinyModel:
    """Make a random model; `changes` are fields of its Hugging Face configuration."""
    hf_config = KINDS[kind](**(SIZES | changes))
    reference = AutoModelForCausalLM.from_config(hf_config).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            parameter.copy_(noise + 1 if "norm" in name else noise)
    config = parse_config(json.loads(hf_config.to_json_string()))
    return TinyModel(reference, config, TableSource(reference.state_dict()))


def make_cache(decoder: Decoder, *, num_pages: int = 40, page_size: int = 4) -> SoleCache:
    return SoleCache(
        num_layers=decoder.stack.num_cached_layers,
        num_kv_heads=decoder.stack.heads.num_kv,
        head_dim=decoder.config.head_dim,
        num_pages=num_pages,
        page_size=page_size,
    )


def tokens(count: int, *, seed: int = 0, vocab_size: int = 101) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(vocab_size, (count,), generator=generator).tolist())


def rows_of(token_ids: Sequence[int], *, slot: int = 0, start: int = 0) -> SequenceRows:
    """Rows that ask for the logits after each of their tokens."""
    return SequenceRows(
        slot=slot, start=start, token_ids=tuple(token_ids), num_logits=len(token_ids)
    )


def score(decoder: Decoder, token_ids: Sequence[int]) -> Tensor:
    """Return the decoder's logits after every token of one fresh sequence."""
    cache = make_cache(decoder)
    cache.open(0, len(token_ids))
    with torch.inference_mode():
        return decoder.forward([rows_of(token_ids)], cache)


@dataclass
class _Table:
    size: int
    barrier: threading.Barrier
    values: list[object] = field(default_factory=list)


class RankThread:
    """A rank's member of a group of threads; counts its exchanges."""

    def __init__(self, table: _Table, rank: int) -> None:
        self.rank = rank
        self.size = table.size
        self.num_gathers = 0
        self._table = table

    def all_reduce(self, tensor: Tensor) -> Tensor:
        total = torch.stack(self._exchange(tensor.clone())).sum(dim=0)
        return tensor.copy_(total)

    def all_gather(self, tensor: Tensor) -> Tensor:
        self.num_gathers += 1
        return torch.stack(self._exchange(tensor.clone()))

    def broadcast_bytes(self, payload: bytes | None) -> bytes:
        sent: bytes | None = self._exchange(payload)[0]
        assert sent is not None
        return sent

    def close(self) -> None:
        pass

    def _exchange(self, value: T) -> list[T]:
        self._table.values[self.rank] = value
        self._table.barrier.wait(timeout=DEADLINE_S)
        values: list[T] = list(self._table.values)  # type: ignore[arg-type]  # all ranks lay a T
        self._table.barrier.wait(timeout=DEADLINE_S)
        return values


def on_ranks(size: int, function: Callable[[RankThread], T]) -> list[T]:
    """Run a function on every rank of a group of threads and return the results in rank order."""
    table = _Table(size, threading.Barrier(size), [None] * size)
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            with torch.inference_mode():
                results[rank] = function(RankThread(table, rank))
        except BaseException as error:  # raised again below, in the test's thread
            errors.append(error)
            table.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    assert not errors
    return [results[rank] for rank in range(size)]
