from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from parallel.kernels.row_invariance import SIZES, Product, in_blocks, invariant_sizes, make_probe

INPUTS = 24
ROWS = make_probe(7, INPUTS).rows


def exact(x: Tensor) -> Tensor:
    weight = torch.linspace(-1, 1, 7 * INPUTS, dtype=torch.float64).view(7, INPUTS)
    rows = [weight.mv(row) for row in x.double()]  # one after the other: alone in every batch
    return torch.stack(rows).float() if rows else x.new_zeros(0, 7)


def next_number(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.tensor(torch.inf))


def other_for_a_single_row(x: Tensor) -> Tensor:
    return next_number(exact(x)) if x.shape[0] == 1 else exact(x)


def other_from_ten_rows_on(x: Tensor) -> Tensor:
    return next_number(exact(x)) if x.shape[0] >= 10 else exact(x)


def other_below_sixteen_rows(x: Tensor) -> Tensor:
    return next_number(exact(x)) if x.shape[0] < 16 and x.shape[0] % 2 else exact(x)


def other_behind_the_last_tile_of_six(x: Tensor) -> Tensor:
    out = exact(x)
    whole = x.shape[0] // 6 * 6
    return torch.cat((out[:whole], next_number(out[whole:]))) if whole else out


def scaled_by_the_largest_number(x: Tensor) -> Tensor:
    scale = x.abs().amax() / 127
    return exact((x / scale).round() * scale)


CASES: list[tuple[Product, tuple[int, ...]]] = [
    (exact, SIZES),
    (other_for_a_single_row, SIZES[1:]),
    (other_from_ten_rows_on, tuple(size for size in SIZES if size < 10)),
    (other_below_sixteen_rows, (2, 4, 6, 8, 12, 16, 24, 32)),
    (other_behind_the_last_tile_of_six, (1, 2, 3, 4, 5, 6, 12, 24)),
    (scaled_by_the_largest_number, (1,)),
]


@pytest.mark.parametrize(("product", "sizes"), CASES)
def test_the_sizes_are_those_at_which_every_place_has_the_same_bits(
    product: Product, sizes: tuple[int, ...]
) -> None:
    assert invariant_sizes(product, ROWS) == sizes


@pytest.mark.parametrize("product", [product for product, _ in CASES])
def test_a_row_in_blocks_has_the_same_bits_in_every_batch(product: Product) -> None:
    sizes = invariant_sizes(product, ROWS)
    x = torch.randn(70, INPUTS, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([in_blocks(product, row.unsqueeze(0), sizes) for row in x])
    for num_rows in (*range(1, 14), 31, 32, 33, 63, 64, 65, 70):
        for first in (0, 70 - num_rows):
            rows = slice(first, first + num_rows)
            assert torch.equal(in_blocks(product, x[rows], sizes), alone[rows])


def test_blocks_run_the_measured_sizes_only() -> None:
    seen: list[int] = []

    def recorded(act: Callable[[Tensor], Tensor]) -> Product:
        def product(x: Tensor) -> Tensor:
            seen.append(x.shape[0])
            return act(x)

        return product

    out = in_blocks(recorded(exact), torch.ones(21, INPUTS), (2, 4, 8))
    assert seen == [8, 8, 8]
    assert out.shape == (21, 7)
    seen.clear()
    assert in_blocks(recorded(exact), torch.ones(0, INPUTS), (2, 4)).shape == (0, 7)
    assert in_blocks(recorded(exact), torch.ones(1, INPUTS), (2, 4)).shape == (1, 7)
    assert seen == [2, 2]


@pytest.mark.parametrize("inputs_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_inputs", [32, 33, 576])
def test_the_sums_of_a_probe_cancel_and_show_every_order_of_adding(
    num_inputs: int, inputs_dtype: torch.dtype
) -> None:
    probe = make_probe(70, num_inputs)
    assert probe.weight.shape == (70, num_inputs)
    assert torch.equal(probe.weight, probe.weight.round().clamp(-8, 7))
    rows = probe.rows.to(inputs_dtype).float()  # as an operator may round them
    assert float((rows.double() @ probe.weight.double().T).abs().amax()) < 1e-6
    forward = backward = torch.zeros(5, 70)
    for column in range(num_inputs):
        other = num_inputs - 1 - column
        forward = forward + rows[:, column, None] * probe.weight[:, column]
        backward = backward + rows[:, other, None] * probe.weight[:, other]
    differ = forward.bfloat16() != backward.bfloat16()
    assert float(differ.float().mean()) > 0.5
