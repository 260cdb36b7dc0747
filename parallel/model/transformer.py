"""The decoder: one ragged forward over rows of many sequences.

Weights come from a `TensorSource`, of which each rank reads only its slices.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor

from parallel.batch import SequenceRows
from parallel.device_step.drawn_tokens import NOISE_BLOCK, VocabularyPart
from parallel.group import Group
from parallel.model.backend import AttentionLayout, Backend, ForwardInputs, ForwardOutputs
from parallel.model.backend_choice import choose_backend
from parallel.model.cache import PagedCache
from parallel.model.layer_weights import TensorSource, read_norm
from parallel.model.layers import VocabParallelEmbedding
from parallel.model.low_rank import AdaptedRows, Adapter, shard_adapter
from parallel.model.model_config import ModelConfig
from parallel.model.rope import RotaryTable
from parallel.model.sharding import HeadShard, padded_range
from parallel.model.stack import LayerParallelStack, TensorParallelStack


class Decoder:
    """A decoder-only transformer, or this rank's shard of one."""

    def __init__(
        self,
        config: ModelConfig,
        source: TensorSource,
        group: Group,
        *,
        layers: Sequence[int] | None = None,
        head_size: int | None = None,
        layer_parallel_from: int | None = None,
        device: torch.device,
        backend: Backend | None = None,
    ) -> None:
        """Read this rank's part of the model.

        Args:
            config: the model's shape.
            source: its weights.
            group: the ranks it is split over.
            layers: the layers to keep, in this order; None keeps all.
            head_size: rows of `lm_head.weight` where it scores only some of the tokens (a reduced
                head, of a drafter); None is the whole vocabulary.
            layer_parallel_from: the attention of each layer is on one rank, and from this layer on
                several layers can run theirs at once; None: all ranks share the heads of each.
            device: the device of the model.
            backend: what computes its parts; None is the fastest on the device.

        Raises:
            ValueError: the group has more ranks than the model splits over.
        """
        self.config = config
        vocab_range = padded_range(config.vocab_size, group.size, group.rank)
        self.head_size = head_size or config.vocab_size
        self.head_range = padded_range(self.head_size, group.size, group.rank)
        self._drawable = _drawable_part(config.vocab_size, self.head_size, group)
        kept = range(config.num_layers) if layers is None else layers
        last_norm = read_norm(config, source, "model.norm")
        self.backend = backend or choose_backend(device, last_norm.dtype)
        embedding = source.read_matrix("model.embed_tokens.weight", 0, *vocab_range)
        head = embedding
        if head_size is not None or not config.tied_head:
            head = source.read_matrix("lm_head.weight", 0, *self.head_range)
        self._head, lookup = self.backend.ends(last_norm, config.rms_norm_eps, head, embedding)
        self._embed = VocabParallelEmbedding(lookup, vocab_range, group)
        # Rounded as transformers rounds it, to the dtype of the embeddings.
        self._embedding_scale = float(torch.tensor(config.embedding_scale).to(last_norm.dtype))
        self.stack: TensorParallelStack | LayerParallelStack
        if layer_parallel_from is None:
            self.stack = TensorParallelStack(config, source, kept, group, self.backend)
        else:
            self.stack = LayerParallelStack(
                config, source, kept, group, self.backend, first=layer_parallel_from
            )
        self.layout = _layout(config, self.stack.heads, device)
        self._device = device
        self._group = group
        self._adapters: dict[str, Any] = {}
        """By name, as the backend holds them."""

    def add_adapter(self, adapter: Adapter) -> None:
        """Hold this rank's part of an adapter, for rows that name it.

        May be called from another thread while a forward runs.

        Raises:
            ValueError: the adapter does not fit the model.
        """
        shard = shard_adapter(
            adapter, self.config, self.stack.heads, self._group, device=self._device
        )
        self._adapters[adapter.name] = self.backend.adapter(shard)

    def remove_adapter(self, name: str) -> None:
        """Drop an adapter that no later row names; do nothing if it is not there."""
        self._adapters.pop(name, None)

    def keeping(self, layers: Sequence[int]) -> "Decoder":
        """Return a decoder of only these of its layers, sharing its weights."""
        kept = copy(self)
        assert isinstance(self.stack, TensorParallelStack)
        kept.stack = self.stack.keeping(layers)
        return kept

    def forward(self, rows: Sequence[SequenceRows], cache: PagedCache, *, width: int = 1) -> Tensor:
        """Append the rows to their sequences and return the requested logits.

        Args:
            rows: the new tokens.
            cache: this rank's, of `stack.num_cached_layers` layers and `stack.heads.num_kv` heads.
            width: layers whose attention reads the same input (`LayerParallelStack`); 1 is exact.

        Returns:
            [sum of num_logits, vocab_shard], float32, in the order of the rows.

        Raises:
            ValueError: rows start beyond their sequence, or its pages cannot hold them.
            KeyError: a row names an adapter that is not held.
        """
        return self.compute(self.prepare(rows, cache), width=width)

    def prepare(self, rows: Sequence[SequenceRows], cache: PagedCache) -> ForwardInputs:
        """Append the rows to their sequences and return what a forward over them reads."""
        adapted = self._adapted(rows)
        inputs = self.backend.plan(rows, cache, self.layout)
        return inputs if adapted is None else inputs.adapted_by(adapted)

    def compute(self, inputs: ForwardInputs, *, width: int = 1) -> Tensor:
        """Return the logits of a prepared forward; the host decides nothing here.

        Returns:
            As `forward`.
        """
        x_RE = self.stack.run(self.embed(inputs), inputs.step, width)
        return self.finish(x_RE, inputs)

    def score(
        self, rows: Sequence[SequenceRows], cache: PagedCache, *, width: int = 1
    ) -> ForwardOutputs:
        """Run `forward`, and draw tokens if the backend does; arguments and errors as there."""
        return self.outputs(self.prepare(rows, cache), width=width)

    def outputs(self, inputs: ForwardInputs, *, width: int = 1) -> ForwardOutputs:
        """Return all that a prepared forward computes; the host decides nothing here."""
        logits, drawn = self.compute(inputs, width=width), None
        if self._drawable is not None:
            drawn = self.backend.draw(logits, inputs, self._drawable, self._group)
        return ForwardOutputs(logits, drawn)

    def embed(self, inputs: ForwardInputs) -> Tensor:
        """Return the embedded tokens, [R, E]."""
        x_RE = self._embed(inputs.token_ids)
        if self._embedding_scale != 1:
            x_RE.mul_(self._embedding_scale)
        return self.backend.pad(x_RE)

    def _adapted(self, rows: Sequence[SequenceRows]) -> Any:
        """Return what the blocks need for the rows' adapters; None where no row has one."""
        names = list(dict.fromkeys(row.adapter for row in rows if row.adapter))
        if not names:
            return None
        numbers = {name: number for number, name in enumerate(names)}
        of_row = [numbers.get(row.adapter, -1) for row in rows for _ in row.token_ids]
        adapters = [self._adapters[name] for name in names]
        return self.backend.plan_adapters(AdaptedRows(adapters, of_row))

    def finish(self, x_RE: Tensor, inputs: ForwardInputs) -> Tensor:
        """Return this rank's logits of the scored rows, [num_scored, vocab_shard], float32."""
        are_all = inputs.num_scored == len(x_RE)
        logits = self._head(x_RE if are_all else x_RE.index_select(0, inputs.scored))
        cap = self.config.logit_cap
        if cap is not None:
            logits.div_(cap).tanh_().mul_(cap)
        return logits[: inputs.num_scored]


def _drawable_part(vocab_size: int, head_size: int, group: Group) -> VocabularyPart | None:
    """Return the tokens of this rank's logits; None where draws from them are not for kernels.

    The noise of a token is that of its number, which is not its column in a reduced head, and
    comes in blocks of numbers, which the parts of a tiny vocabulary would cut.
    """
    ranges = [padded_range(vocab_size, group.size, rank) for rank in range(group.size)]
    if head_size != vocab_size or any(first % NOISE_BLOCK for first, _ in ranges):
        return None
    widest = max(stop - first for first, stop in ranges)
    return VocabularyPart(first=ranges[group.rank][0], widest=widest)


def _layout(config: ModelConfig, heads: HeadShard, device: torch.device) -> AttentionLayout:
    kinds = config.attention_kinds
    return AttentionLayout(
        heads=heads,
        windows=[kind.window for kind in kinds],
        rotary=[
            RotaryTable(kind.rope, config.head_dim, config.max_positions, device=device)
            for kind in kinds
        ],
    )
