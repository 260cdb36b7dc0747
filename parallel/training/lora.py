"""Low-rank adapters (Hu et al., arXiv 2106.09685) on the linear layers of any torch model."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parallel.group import Group
from parallel.training.frozen_linear import FrozenLinear, weight_of

_LINEAR = (nn.Linear, FrozenLinear)
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitInputs:
    """A rank's inputs of a layer whose inputs are split over a group."""

    first: int
    num_inputs: int
    """Of the whole layer."""
    group: Group


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trained low-rank update: x W^T + b + scale x A^T B^T.

    With DoRA (Liu et al., arXiv 2402.09353), the rows of W + scale B A are then scaled to trained
    lengths; as in peft, their present lengths are constants on the way back.
    """

    def __init__(
        self,
        base: nn.Linear | FrozenLinear,
        rank: int,
        alpha: float,
        generator: torch.Generator,
        dropout: float = 0.0,
        *,
        rank_stabilized: bool = False,
        dora: bool = False,
    ) -> None:
        """Start as the layer alone: A is uniform as in `nn.Linear`, B is 0.

        A: [rank, in_features], B: [out_features, rank], lengths: [out_features], all float32.
        `dropout` is the share of the inputs that the update does not see, in training mode. The
        scale is alpha / rank, or alpha / sqrt(rank) if rank-stabilized (Kalajdzievski,
        arXiv 2312.03732).
        """
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        bound = 1 / math.sqrt(base.in_features)
        start = (torch.rand((rank, base.in_features), generator=generator) * 2 - 1) * bound
        self.lora_A = nn.Parameter(start)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        self._scale = alpha / (math.sqrt(rank) if rank_stabilized else rank)
        self._dropout = dropout
        self.inputs: SplitInputs | None = None
        """Which inputs of the layer these are, where they are split over a group; what is returned
        is then a part of a sum."""
        self.is_on = True
        """Whether the update is added; without it, the layer is its base."""
        self.lora_magnitude_vector: nn.Parameter | None = None
        if dora:
            self.lora_magnitude_vector = nn.Parameter(row_lengths(weight_of(base)))

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out_features] of x, [..., in_features]."""
        out: Tensor = self.base(x)
        if not self.is_on:
            return out
        seen = self._seen(x)
        update = self._scale * F.linear(F.linear(seen, self.lora_A), self.lora_B)
        if self.lora_magnitude_vector is None:
            return out + update
        plain = self.base(seen) if self.training and self._dropout > 0 else out
        if isinstance(self.base.bias, Tensor):
            plain = plain - self.base.bias
        with torch.no_grad():
            changed = weight_of(self.base) + self._scale * self.lora_B @ self.lora_A
            lengths = self._lengths(changed)
        ratio = self.lora_magnitude_vector / lengths
        return out + (ratio - 1) * plain + ratio * update

    def _seen(self, x: Tensor) -> Tensor:
        """Return the inputs after dropout; which are dropped does not depend on a split."""
        if self.inputs is None or not self.training or self._dropout == 0:
            return F.dropout(x, self._dropout, training=self.training)
        whole = torch.ones((*x.shape[:-1], self.inputs.num_inputs), dtype=x.dtype, device=x.device)
        kept = F.dropout(whole, self._dropout, training=True)
        return x * kept.narrow(-1, self.inputs.first, x.shape[-1])

    def _lengths(self, weight: Tensor) -> Tensor:
        """Return the norms of the rows of the whole weight of which this is a part."""
        lengths = row_lengths(weight)
        if self.inputs is None:
            return lengths
        return self.inputs.group.all_reduce(lengths.square()).sqrt()


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Compute with a model's base alone."""
    adapters = [module for module in model.modules() if isinstance(module, LoraLinear)]
    for adapter in adapters:
        adapter.is_on = False
    try:
        yield
    finally:
        for adapter in adapters:
            adapter.is_on = True


def row_lengths(weight: Tensor) -> Tensor:
    """Return the norms of a weight's rows, [out_features] float32."""
    lengths: Tensor = torch.linalg.vector_norm(weight.detach().float(), dim=1)
    return lengths


def add_lora(
    model: nn.Module,
    targets: Sequence[str],
    *,
    rank: int,
    alpha: float,
    seed: int,
    dropout: float = 0.0,
    rank_stabilized: bool = False,
    dora: bool = False,
    ranks: Mapping[str, int] = MappingProxyType({}),
    alphas: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, nn.Parameter]:
    """Put adapters on every linear layer whose name ends with one of `targets`; freeze the rest.

    Args:
        model: changed in place.
        targets: last parts of layers' names.
        rank: rank of the updates.
        alpha: alpha of the updates.
        seed: draws the first values of A.
        dropout: share of the inputs that an update does not see, in training mode.
        rank_stabilized: whether the scale is alpha / sqrt(rank).
        dora: whether updates are scaled row by row (DoRA).
        ranks: other ranks, by regular expressions for the end of a layer's name, as in peft.
        alphas: other alphas, by such expressions.

    Returns:
        The adapters' weights, as `model.layers.0.self_attn.q_proj.lora_A`.

    Raises:
        ValueError: no layer has one of the names, or fits one of the expressions.
    """
    model.requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(seed)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, _LINEAR) and name.rpartition(".")[2] in targets
    ]
    check_targets(model, targets)
    names = [name for name, _ in found]
    rank_of = _matched(names, ranks, rank)
    alpha_of = _matched(names, alphas, alpha)
    weights: dict[str, nn.Parameter] = {}
    for name, module in found:
        parent, _, last = name.rpartition(".")
        adapter = LoraLinear(
            module,
            rank_of[name],
            alpha_of[name],
            generator,
            dropout,
            rank_stabilized=rank_stabilized,
            dora=dora,
        )
        setattr(model.get_submodule(parent), last, adapter)
        weights |= {f"{name}.{part}": w for part, w in adapter.named_parameters(recurse=False)}
    return weights


def _matched(
    names: Sequence[str], patterns: Mapping[str, _Number], default: _Number
) -> dict[str, _Number]:
    """Return each layer's number: that of the first pattern that fits its name, as peft chooses.

    Raises:
        ValueError: a pattern is no regular expression, or the first one for no name.
    """
    chosen = dict.fromkeys(names, default)
    unused = dict.fromkeys(patterns)
    for name in names:
        for pattern, number in patterns.items():
            try:
                fits = re.match(rf"(.*\.)?({pattern})$", name)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
            if fits:
                chosen[name] = number
                unused.pop(pattern, None)
                break
    if unused:
        raise ValueError(
            f"{', '.join(map(repr, unused))} decides about no layer: it fits none that has an "
            "adapter, or an earlier pattern fits first"
        )
    return chosen


def check_targets(model: nn.Module, targets: Sequence[str]) -> None:
    """Raise ValueError for names that no linear layer of a model has, or for no names at all."""
    there = {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, _LINEAR)}
    missing = [name for name in targets if name not in there]
    if missing or not targets:
        raise ValueError(
            f"no linear layer is called {' or '.join(missing) or 'anything'}: there are "
            f"{', '.join(sorted(there))}"
        )
