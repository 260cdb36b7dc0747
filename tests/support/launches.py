"""How many kernels each operator launches on a GPU."""

from typing import Any

import torch

FREE = frozenset(
    {
        "aten::_unsafe_view",
        "aten::detach",
        "aten::empty",
        "aten::empty_like",
        "aten::empty_strided",
        "aten::lift_fresh",
        "aten::new_empty",
        "prim::device",
    }
)
"""Operators that allocate or describe; views are free as well."""
ONE = frozenset(
    {
        "aten::_local_scalar_dense",
        "aten::_softmax",
        "aten::abs",
        "aten::add",
        "aten::add_",
        "aten::addmm",
        "aten::all",
        "aten::any",
        "aten::arange",
        "aten::argmax",
        "aten::bitwise_and",
        "aten::bitwise_or",
        "aten::bmm",
        "aten::cat",
        "aten::clamp",
        "aten::clone",
        "aten::div",
        "aten::div_",
        "aten::embedding",
        "aten::equal",
        "aten::eq",
        "aten::fill_",
        "aten::gather",
        "aten::ge",
        "aten::gt",
        "aten::index",
        "aten::index_put_",
        "aten::index_select",
        "aten::le",
        "aten::lt",
        "aten::masked_fill",
        "aten::masked_fill_",
        "aten::max",
        "aten::mean",
        "aten::mm",
        "aten::mul",
        "aten::mul_",
        "aten::ne",
        "aten::nonzero",
        "aten::ones",
        "aten::silu",
        "aten::sub",
        "aten::sum",
        "aten::where",
        "aten::zero_",
        "aten::zeros",
        "paceline::choose_tokens",
        "paceline::gate_columns",
        "paceline::match_drafts",
        "paceline::move_cached",
        "paceline::multiply_rows",
        "paceline::norm_rows",
        "paceline::score_tokens",
        "paceline::store_keys_values",
    }
)
"""Operators that launch one kernel."""
ATTENTION = "paceline::paged_attention"


def launches_of(operator: Any, args: tuple[Any, ...]) -> int:
    """Return how many kernels an operator launches.

    Raises:
        NotImplementedError: the operator is in no list; look up what it does, and add it.
    """
    name = operator.name().partition(".")[0]
    if name in FREE or operator.is_view:
        return 0
    if name in ONE:
        return 1
    if name == ATTENTION:  # attention that is split over keys is merged by a second kernel
        return 2 if any(isinstance(a, torch.Tensor) for a in args[9:11]) else 1
    raise NotImplementedError(f"tests/support/launches.py does not list {name}")
