"""A whole step by the kernels, from the upload of its plan to the download of its verdicts.

It shows that the kernels compute each feature of a decoder, and what a step launches.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from parallel.device_kernels.step_kernels import AttentionRows, HeadNorms, StepKernels
from parallel.device_step.step_packing import PackingRules
from parallel.device_step.step_shape import StepArrays, StepShape, device_arrays
from parallel.model.model_config import Activation, ModelConfig
from parallel.model.rope import RotaryTable, interleave
from tests.support.tiny_transformer import TableSource

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class StepResult:
    """What a step computes."""

    logits: Tensor
    """[scored, vocab_size], on the device."""
    tokens: Tensor
    """[scored], on the device."""
    verdicts: Tensor
    """[sequences, 2 + nodes], on the host."""


class DeviceDecoder:
    """A decoder of one rank whose step is a function of device buffers."""

    def __init__(
        self, config: ModelConfig, source: TableSource, kernels: StepKernels, device: str
    ) -> None:
        self.config = config
        self._kernels = kernels
        self._device = device
        self._source = source
        self._layers = [self._read_layer(index) for index in range(config.num_layers)]
        self._embed = self._read("model.embed_tokens.weight")
        self._head = self._embed if config.tied_head else self._read("lm_head.weight")
        self._norm = self._read("model.norm.weight")
        self._turns = [
            self._put(
                torch.view_as_real(
                    RotaryTable(
                        kind.rope, config.head_dim, config.max_positions, device=torch.device("cpu")
                    ).at(torch.arange(config.max_positions))[:, 0]
                ).contiguous()
            )
            for kind in config.attention_kinds
        ]

    def rules(self, page_size: int) -> PackingRules:
        """Return how steps are packed."""
        group = self.config.num_heads // self.config.num_kv_heads
        return PackingRules(
            page_size=page_size,
            windows=tuple(kind.window for kind in self.config.attention_kinds),
            tile_rows=self._kernels.tile_rows(group, self._embed.element_size()),
        )

    def make_cache(self, num_tokens: int) -> Tensor:
        """Return a cache, [layers, 2, num_kv_heads, num_tokens, head_dim], of NaN."""
        config = self.config
        shape = (config.num_layers, 2, config.num_kv_heads, num_tokens, config.head_dim)
        return torch.full(shape, torch.nan, dtype=self._embed.dtype, device=self._device)

    def step(self, plan: Tensor, shape: StepShape, cache: Tensor, page_size: int) -> StepResult:
        """Run a step; the plan is the packed buffer, on the host."""
        config, kernels = self.config, self._kernels
        buffer = torch.empty(shape.num_words, dtype=torch.int32, device=self._device)
        buffer.copy_(plan)
        arrays = device_arrays(buffer, shape)
        kernels.move(cache.flatten(0, 2), arrays.move_offsets, arrays.moves)
        stream = F.embedding(arrays.token_ids, self._embed)
        if config.embedding_scale != 1:
            stream.mul_(float(torch.tensor(config.embedding_scale).to(self._embed.dtype)))
        normed = torch.empty_like(stream)
        eps, adds_one = config.rms_norm_eps, config.norms.adds_one
        kernels.norm(
            stream, self._layers[0]["before_attention"], normed, eps=eps, adds_one=adds_one
        )
        for index, layer in enumerate(self._layers):
            is_last = index + 1 == len(self._layers)
            after = self._norm if is_last else self._layers[index + 1]["before_attention"]
            attended = self._attend(normed, index, arrays, cache[index], page_size)
            kernels.add_and_norm(
                attended, stream, layer["before_mlp"], normed, eps=eps, adds_one=adds_one,
                inner_weight_E=layer.get("after_attention"),
            )  # fmt: skip
            kernels.add_and_norm(
                self._feed(normed, layer), stream, after, normed, eps=eps, adds_one=adds_one,
                inner_weight_E=layer.get("after_mlp"),
            )  # fmt: skip
        return self._decide(normed, arrays, shape)

    def _attend(
        self, normed: Tensor, index: int, arrays: StepArrays[Tensor], cache: Tensor, page_size: int
    ) -> Tensor:
        config, layer = self.config, self._layers[index]
        kind, dim = config.kind_of(index), config.head_dim
        heads = F.linear(normed, layer["qkv"], layer.get("qkv_bias")).view(len(normed), -1, dim)
        norms = None
        if config.qk_norm:
            norms = HeadNorms(
                query=layer["query_norm"],
                key=layer["key_norm"],
                eps=config.rms_norm_eps,
                adds_one=config.norms.adds_one,
            )
        self._kernels.rotate_and_store(
            heads, self._turns[kind], arrays.positions, arrays.addresses, cache[0], cache[1],
            norms=norms,
        )  # fmt: skip
        query = heads[:, : config.num_heads]
        attended = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        rows = AttentionRows(
            tiles=arrays.tiles,
            ranges=arrays.ranges[kind],
            bits=arrays.bits[kind],
            trees=arrays.trees,
            tables=arrays.tables,
            page_size=page_size,
        )
        scale = config.attention_scale or 1 / math.sqrt(dim)
        self._kernels.attend(query, cache[0], cache[1], rows, attended, scale=scale)
        return F.linear(attended.view(len(normed), -1), layer["output"], layer.get("output_bias"))

    def _feed(self, normed: Tensor, layer: Weights) -> Tensor:
        gate_up = F.linear(normed, layer["gate_up"], layer.get("gate_up_bias"))
        gated = gate_up.new_empty((len(normed), gate_up.shape[1] // 2))
        self._kernels.gate(gate_up, gated, gelu=self.config.activation is Activation.GELU_TANH)
        return F.linear(gated, layer["down"], layer.get("down_bias"))

    def _decide(self, normed: Tensor, arrays: StepArrays[Tensor], shape: StepShape) -> StepResult:
        logits = F.linear(normed.index_select(0, arrays.scored), self._head).float()
        num_blocks = self._kernels.num_candidates(logits.shape[1])
        places = (shape.scored, num_blocks, 3)
        candidates = torch.empty(places, dtype=torch.float64, device=self._device)
        tokens = torch.empty(shape.scored, dtype=torch.int32, device=self._device)
        size = (shape.sequences, 2 + shape.nodes)
        verdicts = torch.empty(size, dtype=torch.int32, device=self._device)
        self._kernels.score_tokens(logits, arrays.draws, candidates)
        self._kernels.choose_tokens(candidates, arrays.draws, tokens)
        self._kernels.match_drafts(
            tokens, arrays.drafts, arrays.node_tokens, arrays.node_parents, verdicts
        )
        return StepResult(logits=logits, tokens=tokens, verdicts=verdicts.to("cpu"))

    def _read_layer(self, index: int) -> Weights:
        config, prefix = self.config, f"model.layers.{index}"
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        weights: Weights = {}
        for place in ("before_attention", "after_attention", "before_mlp", "after_mlp"):
            name = getattr(config.norms, place)
            if name is not None:
                weights[place] = self._read(f"{prefix}.{name}.weight")
        kinds = [("weight", "", True)]
        kinds.append(("bias", "_bias", config.qkv_bias))
        for kind, suffix, is_there in kinds:
            if is_there:
                parts = [self._source.read(f"{attention}.{n}_proj.{kind}") for n in "qkv"]
                parts[:2] = [interleave(part, config.head_dim) for part in parts[:2]]
                weights[f"qkv{suffix}"] = self._put(torch.cat(parts))
        weights["output"] = self._read(f"{attention}.o_proj.weight")
        pair = [self._source.read(f"{mlp}.{name}_proj.weight") for name in ("gate", "up")]
        weights["gate_up"] = self._put(torch.cat(pair))
        weights["down"] = self._read(f"{mlp}.down_proj.weight")
        if config.qk_norm:
            for name, place in (("q_norm", "query_norm"), ("k_norm", "key_norm")):
                norm = self._source.read(f"{attention}.{name}.weight")
                weights[place] = self._put(interleave(norm, config.head_dim))
        return weights

    def _read(self, name: str) -> Tensor:
        return self._put(self._source.read(name))

    def _put(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the device; a fake one has no values to copy."""
        placed = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
        return placed.copy_(tensor)


def words_of(shape: StepShape) -> NDArray[np.int32]:
    """Return a buffer for a packed step, full of garbage."""
    return np.full(shape.num_words, 0x55555555, dtype=np.int32)
