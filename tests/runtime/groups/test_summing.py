"""Sums of the ranks' parts: one order, one rounding."""

import pytest
import torch

from runtime.groups.summing import sum_into


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_parts_are_added_in_rank_order(num_ranks: int) -> None:
    torch.manual_seed(num_ranks)
    parts = [torch.randn(64) * 10**rank for rank in range(num_ranks)]
    expected = parts[0].clone()
    for part in parts[1:]:
        expected = expected + part
    out = torch.empty(64)
    sum_into(out, parts)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_the_result_may_replace_any_part(num_ranks: int) -> None:
    parts = [torch.full((3,), float(rank + 1)) for rank in range(num_ranks)]
    sum_into(parts[-1], parts)
    assert parts[-1].tolist() == [num_ranks * (num_ranks + 1) / 2] * 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_rounded_once(dtype: torch.dtype) -> None:
    # Added one after the other in half precision, each small part would be rounded away.
    small = float(torch.finfo(dtype).eps) / 2
    parts = [torch.full((2,), value, dtype=dtype) for value in (1.0, small, small)]
    stepwise = parts[0] + parts[1] + parts[2]
    out = torch.empty(2, dtype=dtype)
    sum_into(out, parts)
    assert stepwise.tolist() == [1.0, 1.0]
    assert out.tolist() == [1.0 + 2 * small] * 2
