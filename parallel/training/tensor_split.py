"""Which part of each trained or frozen tensor a rank of a worker holds, and whose gradients count.

The heads and the columns of feed-forward blocks are split as in generation. The vocabulary is
split too: its rows of the embedding and of the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from parallel.model.low_rank import PART_NAMES, AdaptedPart
from parallel.model.model_config import ModelConfig
from parallel.model.sharding import HeadShard, even_range, head_shard, padded_range

_EMBEDDING, _HEAD = "embed_tokens", "lm_head"
_QUERIES = (PART_NAMES[AdaptedPart.QUERY], PART_NAMES[AdaptedPart.OUTPUT])
_KEYS = (PART_NAMES[AdaptedPart.KEY], PART_NAMES[AdaptedPart.VALUE])
_SPLIT_INPUTS = (PART_NAMES[AdaptedPart.OUTPUT], PART_NAMES[AdaptedPart.DOWN])
_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_DOWN, _UP, _LENGTHS = "lora_A", "lora_B", "lora_magnitude_vector"
_BIAS = "bias"

Range = tuple[int, int]
"""First and one past the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSplit:
    """The parts of one tensor."""

    dim: int | None
    """The dimension that is split; None: every rank holds the whole tensor."""
    ranges: tuple[Range, ...]
    """Of each rank, its part of that dimension; parts may overlap or be empty."""
    is_summed: bool
    """Whether the gradient of the tensor is the sum of all ranks' gradients; otherwise all ranks of
    a whole tensor have the same one."""

    def index(self, rank: int) -> tuple[slice, ...]:
        """Return the index of a rank's part in the whole tensor."""
        if self.dim is None:
            return ()
        return (*[slice(None)] * self.dim, slice(*self.ranges[rank]))

    def part_shape(self, shape: Sequence[int], rank: int) -> tuple[int, ...]:
        """Return the shape of a rank's part of a tensor of this shape."""
        if self.dim is None:
            return tuple(shape)
        first, stop = self.ranges[rank]
        return (*shape[: self.dim], stop - first, *shape[self.dim + 1 :])

    def whole_shape(self, part: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the tensor of which a part has this shape."""
        if self.dim is None:
            return tuple(part)
        size = max(stop for _, stop in self.ranges)
        return (*part[: self.dim], size, *part[self.dim + 1 :])


class ModelSplit:
    """The split of a whole model over the ranks of a group."""

    def __init__(self, config: ModelConfig, size: int) -> None:
        """Split a model over `size` ranks.

        Raises:
            ValueError: it has fewer query heads, or columns, than there are ranks.
        """
        self.size = size
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        shards = [head_shard(heads, kv_heads, size, rank) for rank in range(size)]
        self.heads: tuple[HeadShard, ...] = tuple(shards)
        """Of each rank."""
        self._queries = tuple((s.query[0] * dim, s.query[1] * dim) for s in shards)
        self._keys = tuple((s.kv[0] * dim, s.kv[1] * dim) for s in shards)
        self._hidden = config.hidden_size
        inner, vocab = config.intermediate_size, config.vocab_size
        self._columns = tuple(padded_range(inner, size, rank) for rank in range(size))
        self._vocab = tuple(even_range(vocab, size, rank) for rank in range(size))

    def of(self, name: str) -> TensorSplit:
        """Return the split of a tensor by its name, as `model.layers.0.mlp.up_proj.lora_A`."""
        layer, _, kind = name.rpartition(".")
        ranges = self._ranges(layer)
        if ranges is None:
            return self._whole(is_summed=layer.endswith(_HEAD_NORMS))
        if not layer.endswith(_SPLIT_INPUTS):  # its outputs are split
            return self._whole(is_summed=True) if kind == _DOWN else _split(0, ranges)
        if kind == _BIAS:  # it is added once, by rank 0
            outputs = self._hidden
            return _split(0, ((0, outputs), *((outputs, outputs),) * (self.size - 1)))
        if kind in (_UP, _LENGTHS):
            return self._whole(is_summed=True)
        return _split(1, ranges)

    def splits_inputs(self, layer: str) -> bool:
        """Return whether a linear layer's inputs are split; otherwise its outputs are."""
        return layer.endswith(_SPLIT_INPUTS)

    def _ranges(self, layer: str) -> tuple[Range, ...] | None:
        """Return the ranges of a linear layer's split dimension; None if it is none."""
        if layer.endswith(_QUERIES):
            return self._queries
        if layer.endswith(_KEYS):
            return self._keys
        if ".mlp." in layer:
            return self._columns
        return self._vocab if layer.endswith((_EMBEDDING, _HEAD)) else None

    def _whole(self, *, is_summed: bool) -> TensorSplit:
        return TensorSplit(dim=None, ranges=(), is_summed=is_summed)


def _split(dim: int, ranges: tuple[Range, ...]) -> TensorSplit:
    return TensorSplit(dim=dim, ranges=ranges, is_summed=True)
