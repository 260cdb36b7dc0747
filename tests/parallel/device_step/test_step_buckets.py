import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from parallel.device_step.step_buckets import StepBuckets, StepLimits
from parallel.device_step.step_packing import (
    PackingRules,
    SequenceStep,
    max_tiles,
    needed_shape,
    pack,
)
from parallel.device_step.step_shape import StepShape
from tests.support.ragged_strategies import sequence_rows

PAGE_SIZE = 4


@st.composite
def limited_steps(draw: st.DrawFn) -> tuple[StepLimits, list[SequenceStep]]:
    """Draw limits, and a step within them."""
    nodes = draw(st.integers(1, 12))
    rows = draw(
        st.lists(sequence_rows(80, max_rows=nodes + 1, max_nodes=nodes), min_size=1, max_size=9)
    )
    steps = [
        SequenceStep(rows=r, pages=range(-(-(r.start + len(r.token_ids)) // PAGE_SIZE)))
        for r in rows
    ]
    total = sum(len(r.token_ids) for r in rows)
    limits = StepLimits(
        rows=total + draw(st.integers(0, 30)),
        sequences=len(rows) + draw(st.integers(0, 5)),
        pages=20 + draw(st.integers(0, 30)),
        nodes=nodes + 1,
        kinds=2,
        tile_rows=draw(st.sampled_from((1, 4, 16))),
    )
    return limits, steps


@given(limited_steps())
def test_every_step_within_the_limits_fits_its_bucket(
    drawn: tuple[StepLimits, list[SequenceStep]],
) -> None:
    limits, steps = drawn
    rules = PackingRules(page_size=PAGE_SIZE, windows=(None, 5), tile_rows=limits.tile_rows)
    buckets = StepBuckets(limits)
    needed = needed_shape(steps, rules)
    shape = buckets.choose(needed)
    assert shape is not None
    assert shape in buckets.shapes
    smaller = [s for s in buckets.shapes if s.covers(needed) and s.num_words < shape.num_words]
    assert not smaller, "there is a smaller one"
    pack(steps, shape, rules, np.zeros(shape.num_words, dtype=np.int32))


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=20),
    st.integers(0, 60),
    st.integers(0, 5),
    st.integers(1, 20),
)
def test_no_step_has_more_tiles_than_are_counted(
    counts: list[int], num_padding: int, num_empty: int, tile_rows: int
) -> None:
    tiles = sum(-(-count // tile_rows) for count in [*counts, num_padding])
    rows, sequences = sum(counts) + num_padding, len(counts) + num_empty
    assert tiles <= max_tiles(rows, sequences, tile_rows)


def test_a_step_beyond_a_limit_has_no_bucket() -> None:
    limits = StepLimits(rows=64, sequences=8, pages=100, nodes=7, kinds=1, tile_rows=16)
    buckets = StepBuckets(limits)
    fits = StepShape(rows=64, sequences=8, pages=100, tiles=9, scored=64, nodes=7, moves=9, kinds=1)
    assert buckets.choose(fits) is not None
    for beyond in ({"rows": 65}, {"sequences": 9}, {"pages": 101}, {"nodes": 8}, {"kinds": 2}):
        assert buckets.choose(fits.wider(**beyond)) is None


def test_buckets_double_up_to_the_limits() -> None:
    limits = StepLimits(rows=12, sequences=4, pages=20, nodes=7, kinds=1, tile_rows=16)
    shapes = StepBuckets(limits).shapes
    assert [(s.rows, s.pages) for s in shapes[:4]] == [(12, 20), (12, 16), (12, 8), (8, 20)]
    assert {s.rows for s in shapes} == {1, 2, 4, 8, 12}
