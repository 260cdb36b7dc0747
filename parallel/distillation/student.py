"""A drafter in training: the decoder of `parallel/model`, differentiable, on whole sequences.

It reads the target's embeddings, has few layers, and scores the tokens of its head alone. Weights
have their Hugging Face names, so that the engine loads what is trained here.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parallel.model.model_config import ModelConfig
from parallel.model.rope import inverse_frequencies

# Shape suffixes: B = sequences, T = positions, E = hidden size, N = heads, D = head_dim, K = head.


class Student(nn.Module):
    """The trainable part of a drafter; embeddings are an argument of the call."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, Tensor], *, head: Tensor) -> None:
        """Start from weights.

        Args:
            config: the drafter's shape.
            tensors: `model.layers.*` and `model.norm.weight`, by Hugging Face name.
            head: [K, E] rows that score the head's tokens.

        Raises:
            ValueError: the model has a part that cannot be trained here.
        """
        super().__init__()
        unsupported = config.features - {"tied_head", "sliding_window"}
        if unsupported:
            raise ValueError(
                f"drafters of {config.model_type} models cannot be trained yet because of "
                f"{', '.join(sorted(unsupported))}: take target:layers=... or ngram"
            )
        self.config = config
        self.weights = nn.ParameterDict(
            {_flat(name): nn.Parameter(tensor.clone()) for name, tensor in tensors.items()}
        )
        self.head = nn.Parameter(head.clone())
        self._frequencies = inverse_frequencies(config.rope, config.head_dim)

    def forward(self, x_BTE: Tensor) -> Tensor:
        """Return normalized hidden states, [B, T, E], of embeddings at positions 0 to T - 1."""
        cos_TD, sin_TD = self._rotary(x_BTE)
        for layer in range(self.config.num_layers):
            x_BTE = x_BTE + self._attention(layer, x_BTE, cos_TD, sin_TD)
            x_BTE = x_BTE + self._mlp(layer, x_BTE)
        return self._norm("model.norm", x_BTE)

    def score(self, hidden_NE: Tensor) -> Tensor:
        """Return logits over the head's tokens, [N, K]."""
        return F.linear(hidden_NE, self.head)

    def named_weights(self) -> dict[str, Tensor]:
        """Return the current weights by Hugging Face name; the head is not among them."""
        return {name.replace("/", "."): weight.detach() for name, weight in self.weights.items()}

    def _attention(self, layer: int, x_BTE: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        prefix = f"model.layers.{layer}"
        normed = self._norm(f"{prefix}.input_layernorm", x_BTE)
        heads = (*x_BTE.shape[:2], -1, self.config.head_dim)
        query, key, value = (
            F.linear(normed, self._weight(f"{prefix}.self_attn.{name}_proj"))
            .view(heads)
            .transpose(1, 2)
            for name in ("q", "k", "v")
        )
        mixed = F.scaled_dot_product_attention(
            _rotated(query, cos_TD, sin_TD),
            _rotated(key, cos_TD, sin_TD),
            value,
            is_causal=True,
            enable_gqa=self.config.num_heads != self.config.num_kv_heads,
        )
        return F.linear(
            mixed.transpose(1, 2).flatten(2), self._weight(f"{prefix}.self_attn.o_proj")
        )

    def _mlp(self, layer: int, x_BTE: Tensor) -> Tensor:
        prefix = f"model.layers.{layer}"
        normed = self._norm(f"{prefix}.post_attention_layernorm", x_BTE)
        gate = F.silu(F.linear(normed, self._weight(f"{prefix}.mlp.gate_proj")))
        up = F.linear(normed, self._weight(f"{prefix}.mlp.up_proj"))
        return F.linear(gate * up, self._weight(f"{prefix}.mlp.down_proj"))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self._weight(name), self.config.rms_norm_eps)

    def _weight(self, name: str) -> Tensor:
        weight: Tensor = self.weights[_flat(f"{name}.weight")]
        return weight

    def _rotary(self, x_BTE: Tensor) -> tuple[Tensor, Tensor]:
        positions = torch.arange(x_BTE.shape[1], dtype=torch.float32)
        angles_TD = torch.outer(positions, self._frequencies).repeat(1, 2)
        scale = self.config.rope.attention_factor
        return (
            (angles_TD.cos() * scale).to(x_BTE.device),
            (angles_TD.sin() * scale).to(x_BTE.device),
        )


def _rotated(x_BNTD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    first, second = x_BNTD.chunk(2, dim=-1)
    return x_BNTD * cos_TD + torch.cat([-second, first], dim=-1) * sin_TD


def _flat(name: str) -> str:
    return name.replace(".", "/")  # a module's parameters may not have dots in their names
