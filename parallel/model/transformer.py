"""The decoder: one ragged forward over rows of many sequences.

Weights come from a `TensorSource`, of which each rank reads only its slices.
"""

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from parallel.group import Group
from parallel.model.batch import SequenceRows
from parallel.model.blocks import AttentionInputs, ForwardStep, TensorSource, read_norm
from parallel.model.cache import AppendPlan, PagedCache
from parallel.model.layers import ColumnParallelLinear, VocabParallelEmbedding, fill_rows
from parallel.model.model_config import ModelConfig
from parallel.model.rope import RotaryTable
from parallel.model.sharding import padded_range
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
            device: the device of the rotary tables.

        Raises:
            ValueError: the group has more ranks than the model splits over.
        """
        self.config = config
        vocab_range = padded_range(config.vocab_size, group.size, group.rank)
        self.head_size = head_size or config.vocab_size
        self.head_range = padded_range(self.head_size, group.size, group.rank)
        kept = range(config.num_layers) if layers is None else layers
        embedding = source.read_slice("model.embed_tokens.weight", 0, *vocab_range)
        self._embed = VocabParallelEmbedding(embedding, vocab_range[0], group)
        # Rounded as transformers rounds it, to the dtype of the embeddings.
        self._embedding_scale = float(torch.tensor(config.embedding_scale).to(embedding.dtype))
        self.stack: TensorParallelStack | LayerParallelStack
        if layer_parallel_from is None:
            self.stack = TensorParallelStack(config, source, kept, group)
        else:
            self.stack = LayerParallelStack(config, source, kept, group, first=layer_parallel_from)
        self._norm = read_norm(config, source, "model.norm")
        head = embedding
        if head_size is not None or not config.tied_head:
            head = source.read_slice("lm_head.weight", 0, *self.head_range)
        self._head = ColumnParallelLinear(head)
        self._windows = [kind.window for kind in config.attention_kinds]
        self._rotary = [
            RotaryTable(kind.rope, config.head_dim, config.max_positions, device=device)
            for kind in config.attention_kinds
        ]
        self._device = device

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
        """
        x_RE, step, scored = self.begin(rows, cache)
        return self.finish(self.stack.run(x_RE, step, width), scored)

    def begin(
        self, rows: Sequence[SequenceRows], cache: PagedCache
    ) -> tuple[Tensor, ForwardStep, list[int]]:
        """Return the embedded tokens, [R, E], the inputs of all layers, and the rows to score."""
        plans: list[AppendPlan] = []
        scored: list[int] = []
        first = 0
        for row in rows:
            num_tokens = len(row.token_ids)
            if row.moves:
                cache.keep(row.slot, row.moves, row.start)
            plans.append(cache.plan_append(row.slot, row.start, num_tokens, first))
            first += num_tokens
            scored += range(first - row.num_logits, first)
        token_ids = [token for row in rows for token in row.token_ids]
        positions = [position for row in rows for position in row.positions]
        x_RE = self._embed(torch.tensor(token_ids, device=self._device))
        if self._embedding_scale != 1:
            x_RE.mul_(self._embedding_scale)
        x_RE = fill_rows(x_RE)
        positions += [0] * (len(x_RE) - len(token_ids))
        at = torch.tensor(positions, device=self._device)
        attention = [
            AttentionInputs([self._mask(row, window, x_RE) for row in rows], rotary.at(at))
            for window, rotary in zip(self._windows, self._rotary, strict=True)
        ]
        return x_RE, ForwardStep(len(token_ids), cache, plans, attention), scored

    def finish(self, x_RE: Tensor, scored: Sequence[int]) -> Tensor:
        """Return this rank's logits of the scored rows, [scored, vocab_shard], float32."""
        if len(scored) < len(x_RE):
            x_RE = fill_rows(x_RE[scored])
        logits = self._head(self._norm(x_RE))[: len(scored)].float()
        cap = self.config.logit_cap
        return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)

    def _mask(self, row: SequenceRows, window: int | None, like: Tensor) -> Tensor | None:
        """Return the rows' mask, repeated for each query head that shares a KV head."""
        mask = _mask(row, window, like)
        shard = self.stack.heads
        return None if mask is None else mask.repeat(shard.num_query // shard.num_kv, 1)


def _mask(row: SequenceRows, window: int | None, like: Tensor) -> Tensor | None:
    """Return 0 where a row attends and -inf elsewhere, [rows, length]; None is all positions.

    Numbers, not booleans: attention would convert those to numbers again in every layer.
    """
    num_rows = len(row.token_ids)
    length = row.start + num_rows
    sliding = window is not None and length > window
    if num_rows == 1 and not sliding:
        return None
    here = torch.arange(row.start, length, device=like.device).unsqueeze(1)
    there = torch.arange(length, device=like.device).unsqueeze(0)
    hidden = there > here
    if row.parents:
        size = len(row.parents)
        lines = _not_ancestors(row.parents)[-num_rows:]
        hidden[-size:, -size:] = lines.to(like.device)
    if sliding:
        assert window is not None
        positions = torch.tensor(row.all_positions, device=like.device)
        hidden |= positions <= positions[row.start :].unsqueeze(1) - window
    return like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)


def _not_ancestors(parents: Sequence[int]) -> Tensor:
    """Return, for each node of a tree, which nodes are neither itself nor an ancestor."""
    lines: list[list[bool]] = []
    for node, parent in enumerate(parents):
        line = lines[parent].copy() if parent >= 0 else [True] * len(parents)
        line[node] = False
        lines.append(line)
    return torch.tensor(lines)
