from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel.batch import SequenceRows
from parallel.device_step.step_packing import PackingRules, needed_shape
from parallel.device_step.step_shape import StepShape
from parallel.triton_kernels.kernel_set import TritonKernels
from tests.support.kernel_device import DEVICE
from tests.support.ragged_batches import (
    AttendedSequence,
    HeadShape,
    attend_with,
    on_pages,
    random_sequences,
    reference_attention,
)
from tests.support.ragged_strategies import rows_of, sequence_rows

KERNELS = TritonKernels()
BOUNDS = {torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}
MIXED = [
    rows_of(0, 5),
    rows_of(299, 1, 1),
    rows_of(255, 4, 4),
    rows_of(270, 9, 9, (-1, 0, 0, -1, 3, 3, 4, 6)),
]
"""A prefill, a single row, a chain over the border of two splits, and a tree."""


def worst(out: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest error; infinite if anything was left unwritten."""
    error = (out.double() - expected).abs().nan_to_num(nan=torch.inf).max().item()
    return float(error)


def check_mixed_rows(dim: int, dtype: torch.dtype, split: bool) -> None:
    heads = HeadShape(num_heads=6, num_kv=2, dim=dim, dtype=dtype)
    sequences = random_sequences(MIXED, heads, 16, seed=dim)
    out = attend_with(KERNELS, sequences, page_size=16, split=split, device=DEVICE)
    assert worst(out, reference_attention(sequences)) < BOUNDS[dtype]


@pytest.mark.parametrize(
    ("dim", "dtype", "split"),
    [
        (64, torch.float32, True),
        (80, torch.bfloat16, False),
        (96, torch.float16, True),
        (128, torch.bfloat16, False),
        (256, torch.float32, False),
    ],
)
def test_all_kinds_of_rows_in_one_launch_attend_as_defined(
    dim: int, dtype: torch.dtype, split: bool
) -> None:
    check_mixed_rows(dim, dtype, split)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("split", [False, True], ids=["walked", "split"])
def test_every_size_of_head_attends_as_defined(dim: int, dtype: torch.dtype, split: bool) -> None:
    check_mixed_rows(dim, dtype, split)


batches = {
    "rows": st.lists(sequence_rows(300), min_size=1, max_size=9),
    "window": st.none() | st.integers(1, 100),
    "cap": st.none() | st.just(5.0),
    "page_size": st.sampled_from((4, 16, 64)),
    "split": st.booleans(),
    "seed": st.integers(0, 1000),
}


def check_against_definition(
    rows: list[SequenceRows],
    heads: HeadShape,
    window: int | None,
    cap: float | None,
    page_size: int,
    split: bool,
    seed: int,
) -> None:
    sequences = random_sequences(rows, heads, page_size, seed)
    out = attend_with(
        KERNELS,
        sequences,
        page_size=page_size,
        window=window,
        cap=cap,
        split=split,
        device=DEVICE,
    )
    expected = reference_attention(sequences, window, cap)
    assert worst(out, expected) < BOUNDS[heads.dtype]


@settings(max_examples=8)
@given(**batches)
def test_any_batch_attends_as_defined(
    rows: list[SequenceRows],
    window: int | None,
    cap: float | None,
    page_size: int,
    split: bool,
    seed: int,
) -> None:
    check_against_definition(rows, HeadShape(), window, cap, page_size, split, seed)


@st.composite
def head_shapes(draw: st.DrawFn) -> HeadShape:
    num_kv, group = draw(st.sampled_from(((1, 1), (2, 1), (2, 3), (1, 8))))
    dim = draw(st.sampled_from((64, 80, 96, 128, 256)))
    dtype = draw(st.sampled_from(list(BOUNDS)))
    return HeadShape(num_heads=num_kv * group, num_kv=num_kv, dim=dim, dtype=dtype)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=400)
@given(heads=head_shapes(), **batches)
def test_any_of_many_batches_attends_as_defined(
    rows: list[SequenceRows],
    heads: HeadShape,
    window: int | None,
    cap: float | None,
    page_size: int,
    split: bool,
    seed: int,
) -> None:
    check_against_definition(rows, heads, window, cap, page_size, split, seed)


def padded_shape(sequences: list[AttendedSequence]) -> StepShape:
    """Return a shape with more rows, sequences, pages and nodes than a batch has."""
    rules = PackingRules(page_size=16, windows=(None,), tile_rows=2)
    needed = needed_shape([s.step for s in sequences], rules)
    rows, num = needed.rows + 3, needed.sequences + 2
    return needed.wider(rows=rows, sequences=num, tiles=rows, pages=needed.pages + 20, nodes=40)


def check_bits_alone(
    rows: list[SequenceRows], window: int | None, dtype: torch.dtype, seed: int
) -> None:
    sequences = random_sequences(rows, HeadShape(dtype=dtype), 16, seed)
    shape = padded_shape(sequences)
    together = attend_with(
        KERNELS, sequences, page_size=16, window=window, shape=shape, device=DEVICE
    )
    split = attend_with(
        KERNELS, sequences, page_size=16, window=window, shape=shape, split=True, device=DEVICE
    )
    assert torch.equal(together, split)
    alone = [
        attend_with(KERNELS, [s], page_size=16, window=window, split=i % 2 == 0, device=DEVICE)
        for i, s in enumerate(sequences)
    ]
    num_rows = sum(len(part) for part in alone)
    assert torch.equal(together[:num_rows], torch.cat(alone))
    assert not together[num_rows:].any(), "padding rows get zeros"


companies = {
    "window": st.none() | st.integers(1, 300),
    "dtype": st.sampled_from(list(BOUNDS)),
    "seed": st.integers(0, 1000),
}


@settings(max_examples=6)
@given(rows=st.lists(sequence_rows(300, max_rows=6), min_size=2, max_size=4), **companies)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(
    rows: list[SequenceRows], window: int | None, dtype: torch.dtype, seed: int
) -> None:
    check_bits_alone(rows, window, dtype, seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=100)
@given(rows=st.lists(sequence_rows(300), min_size=2, max_size=9), **companies)
def test_a_row_has_the_same_bits_alone_and_in_any_large_batch(
    rows: list[SequenceRows], window: int | None, dtype: torch.dtype, seed: int
) -> None:
    check_bits_alone(rows, window, dtype, seed)


@pytest.mark.parametrize("window", [None, 200])
def test_each_row_of_a_chain_has_the_bits_of_a_step_of_its_own(window: int | None) -> None:
    (chain,) = random_sequences([rows_of(253, 6, 6)], HeadShape(), 16, seed=1)
    together = attend_with(KERNELS, [chain], page_size=16, window=window, device=DEVICE)
    for row in range(6):
        step = replace(chain.step, rows=rows_of(253 + row, 1, 1))
        single = replace(chain, step=step, query=chain.query[row : row + 1])
        out = attend_with(KERNELS, [single], page_size=16, window=window, device=DEVICE)
        assert torch.equal(out[0], together[row])


def test_pages_in_another_order_change_no_bit() -> None:
    sequences = random_sequences(MIXED, HeadShape(), 16, seed=2)
    backwards = [on_pages(s, s.step.pages[::-1]) for s in sequences]
    assert torch.equal(
        attend_with(KERNELS, sequences, page_size=16, device=DEVICE),
        attend_with(KERNELS, backwards, page_size=16, device=DEVICE),
    )


def test_another_page_size_changes_no_bit() -> None:
    first, *others = [
        attend_with(
            KERNELS,
            random_sequences([rows_of(270, 3, 3)], HeadShape(), page_size, seed=3),
            page_size=page_size,
            device=DEVICE,
        )
        for page_size in (1, 16, 512)
    ]
    assert torch.isfinite(first).all()
    assert all(torch.equal(first, other) for other in others)


def test_a_tree_deeper_than_the_window_sees_only_its_last_ancestors() -> None:
    line = tuple(range(-1, 39))
    sequences = random_sequences([rows_of(20, 41, 41, line)], HeadShape(), 16, seed=4)
    for window in (1, 7, 35, 60):
        out = attend_with(KERNELS, sequences, page_size=16, window=window, device=DEVICE)
        assert worst(out, reference_attention(sequences, window)) < BOUNDS[torch.float32]
