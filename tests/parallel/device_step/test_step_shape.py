import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from parallel.device_step.step_shape import StepShape, device_arrays, host_arrays

sizes = st.integers(1, 40)
shapes = st.builds(
    StepShape,
    rows=sizes,
    sequences=sizes,
    pages=sizes,
    tiles=sizes,
    scored=st.integers(0, 40),
    nodes=st.integers(0, 70),
    moves=st.integers(0, 9),
    kinds=st.integers(1, 2),
)


@given(shapes)
def test_arrays_fill_the_buffer_without_sharing_a_word(shape: StepShape) -> None:
    buffer = np.zeros(shape.num_words, dtype=np.int32)
    arrays = host_arrays(buffer, shape)
    names = arrays.__slots__
    for name in names:
        getattr(arrays, name)[...] += 1
    assert buffer.max() == 1, "two arrays share a word"
    assert buffer.sum() == sum(getattr(arrays, name).size for name in names)


@given(shapes)
def test_a_device_sees_what_the_host_wrote(shape: StepShape) -> None:
    buffer = np.arange(shape.num_words, dtype=np.int32)
    host = host_arrays(buffer, shape)
    device = device_arrays(torch.from_numpy(buffer), shape)
    for name in host.__slots__:
        there = getattr(device, name)
        if name == "draws":
            assert there.dtype == torch.int64
            assert there.shape == (shape.scored, 4)
            there = there.view(torch.int32)
        assert np.array_equal(there.numpy(), getattr(host, name))


def test_every_array_begins_at_64_bytes() -> None:
    shape = StepShape(rows=3, sequences=2, pages=5, tiles=3, scored=1, nodes=40, moves=1, kinds=2)
    buffer = torch.zeros(shape.num_words, dtype=torch.int32)
    arrays = device_arrays(buffer, shape)
    for name in arrays.__slots__:
        assert (getattr(arrays, name).data_ptr() - buffer.data_ptr()) % 64 == 0


@given(shapes, shapes)
def test_a_shape_covers_another_if_no_size_is_larger(one: StepShape, other: StepShape) -> None:
    larger = StepShape(
        **{
            name: max(getattr(one, name), getattr(other, name))
            for name in one.__slots__
            if name != "kinds"
        },
        kinds=one.kinds,
    )
    assert larger.covers(one)
    assert larger.covers(other) == (other.kinds == one.kinds)
    assert one.covers(larger) == (one == larger)
