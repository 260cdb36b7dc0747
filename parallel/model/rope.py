"""Rotary position embedding (Su et al., arXiv 2104.09864) and its scalings."""

import math

import torch
from torch import Tensor

from parallel.model.model_config import RopeConfig

# Shape suffixes: T = tokens, N = heads, D = head_dim, H = head_dim / 2.


class RotaryTable:
    """The rotation of every pair at every position, a complex number each, computed once."""

    def __init__(
        self, rope: RopeConfig, head_dim: int, max_positions: int, *, device: torch.device
    ) -> None:
        positions = torch.arange(max_positions, dtype=torch.float32)
        angles_TH = torch.outer(positions, inverse_frequencies(rope, head_dim))
        scale = rope.attention_factor
        self._turns_TH = torch.polar(torch.full_like(angles_TH, scale), angles_TH).to(device)

    def at(self, positions_T: Tensor) -> Tensor:
        """Return what `rotate_` takes for positions, [T, 1, head_dim / 2]."""
        return self._turns_TH[positions_T].unsqueeze(1)

    @property
    def pairs(self) -> Tensor:
        """Cosine and sine of every pair, by position, [max_positions, head_dim / 2, 2] float32."""
        return torch.view_as_real(self._turns_TH)


def interleave(weight: Tensor, head_dim: int) -> Tensor:
    """Return a projection, [heads * head_dim, ...], with the rows of each pair adjacent.

    Checkpoints pair the first half of a head with the second. Only the product
    of queries and keys counts, which does not depend on an order they share; in this order a
    rotation is a complex product.
    """
    halves = weight.view(-1, 2, head_dim // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def rotate_(x_TND: Tensor, turns_T1H: Tensor) -> None:
    """Rotate, in place, heads whose pairs are adjacent."""
    pairs = x_TND.view(*x_TND.shape[:-1], -1, 2)
    if x_TND.dtype == torch.float32:
        torch.view_as_complex(pairs).mul_(turns_T1H)
    else:
        wide = torch.view_as_complex(pairs.float())
        pairs.copy_(torch.view_as_real(wide * turns_T1H))


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """Return the angle by which each pair of a head rotates per position, [head_dim / 2]."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / rope.theta**exponents
    match rope.kind:
        case "linear":
            return frequencies / rope.factor
        case "llama3":
            return _llama3(rope, frequencies)
        case "yarn":
            return _yarn(rope, frequencies, head_dim)
        case _:
            # "dynamic" scales only beyond the trained length, which the context never exceeds.
            return frequencies


def _llama3(rope: RopeConfig, frequencies: Tensor) -> Tensor:
    """Scale long waves, keep short ones, blend between (Llama 3.1)."""
    waves = 2 * math.pi / frequencies
    low, high = rope.low_freq_factor, rope.high_freq_factor
    blend = (rope.original_positions / waves - low) / (high - low)
    blend = blend.clamp(0, 1)
    return (1 - blend) * frequencies / rope.factor + blend * frequencies


def _yarn(rope: RopeConfig, frequencies: Tensor, head_dim: int) -> Tensor:
    """Blend by how often a pair rotates in the trained length (arXiv 2309.00071, section 3.2)."""

    def pair_of(num_turns: float) -> float:
        turns = rope.original_positions / (num_turns * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(rope.theta))

    low, high = pair_of(rope.beta_fast), pair_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # as the reference does, to avoid a division by zero
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return frequencies / rope.factor * ramp + frequencies * (1 - ramp)
