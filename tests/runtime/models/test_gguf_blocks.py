"""Every supported type of GGUF tensors is what gguf's own dequantization makes of it."""

import gguf
import numpy as np
import pytest

from parallel.weights.stored_matrix import StoredMatrix, as_float
from parallel.weights.weight_format import WeightFormat
from runtime.models.gguf_blocks import SUPPORTED_TYPES, dequantized, read_matrix
from tests.support.gguf_blocks import blocks_of, tensor_of
from tests.support.stored_checkpoints import equal_bits

FORMS = {
    "Q4_0": (WeightFormat.INT4, False),
    "Q4_1": (WeightFormat.INT4, True),
    "Q5_0": (WeightFormat.INT8, False),
    "Q5_1": (WeightFormat.INT8, True),
    "Q8_0": (WeightFormat.INT8, False),
    "Q4_K": (WeightFormat.INT4, True),
    "Q5_K": (WeightFormat.INT8, True),
    "Q6_K": (WeightFormat.INT8, False),
}


@pytest.mark.parametrize("name", SUPPORTED_TYPES)
def test_weights_are_those_of_gguf(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    data = blocks_of(kind, rows=7, columns=512)
    expected = np.asarray(gguf.dequantize(data, kind), dtype=np.float32)
    assert np.abs(expected).max() > 0
    tensor = tensor_of("blk.0.ffn_up.weight", data, kind)
    assert dequantized(tensor).numpy().tobytes() == expected.tobytes()
    matrix = read_matrix(tensor)
    assert equal_bits(as_float(matrix).float(), dequantized(tensor))
    if isinstance(matrix, StoredMatrix):
        assert (matrix.format, matrix.mins is not None) == FORMS.pop(name)
        assert matrix.group_size == (16 if name == "Q6_K" else 32)
    else:
        assert name in ("F32", "F16", "BF16")
        assert matrix.element_size() == (4 if name == "F32" else 2)


def test_all_forms_are_expected() -> None:
    assert FORMS.keys() <= set(SUPPORTED_TYPES)


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "IQ4_NL", "TQ1_0", "MXFP4", "I32", "F64"])
def test_other_types_are_rejected_with_the_list_of_types(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    tensor = tensor_of("blk.0.ffn_up.weight", np.zeros((1, 8), dtype=np.uint8), kind)
    message = rf"blk.0.ffn_up.weight is stored as {name}, .*: F32, F16, BF16, Q4_0, .*, Q6_K$"
    with pytest.raises(ValueError, match=message):
        read_matrix(tensor)
    with pytest.raises(ValueError, match=message):
        dequantized(tensor)


@pytest.mark.parametrize("name", SUPPORTED_TYPES)
def test_numbers_that_are_not_finite_are_rejected(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    data = blocks_of(kind, rows=3, columns=256).copy()
    raw = data[1].view(np.uint8)
    infinite = {"F32": b"\x00\x00\x80\x7f", "BF16": b"\x80\x7f"}.get(name, b"\x00\x7c")
    at = 208 if name == "Q6_K" else 0
    raw[at : at + len(infinite)] = np.frombuffer(infinite, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"ffn_up.weight holds numbers that are not finite"):
        read_matrix(tensor_of("blk.0.ffn_up.weight", data, kind))
