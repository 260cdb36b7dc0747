import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel.batch import SequenceRows
from parallel.device_kernels.plain_kernels import PlainKernels
from tests.support.ragged_batches import (
    HeadShape,
    attend_with,
    random_sequences,
    reference_attention,
)
from tests.support.ragged_strategies import sequence_rows

KERNELS = PlainKernels()


@settings(max_examples=30)
@given(
    rows=st.lists(sequence_rows(60), min_size=1, max_size=9),
    window=st.none() | st.integers(1, 40),
    cap=st.none() | st.just(5.0),
    page_size=st.sampled_from((1, 4, 16)),
    seed=st.integers(0, 1000),
)
def test_any_batch_attends_as_defined(
    rows: list[SequenceRows], window: int | None, cap: float | None, page_size: int, seed: int
) -> None:
    heads = HeadShape(dim=16, dtype=torch.float64)
    sequences = random_sequences(rows, heads, page_size, seed)
    out = attend_with(KERNELS, sequences, page_size=page_size, window=window, cap=cap)
    torch.testing.assert_close(out, reference_attention(sequences, window, cap), atol=1e-12, rtol=0)
