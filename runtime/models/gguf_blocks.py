"""Tensors of a GGUF file as the model holds them: floats, or codes in groups.

The blocks are those of ggml's ggml-common.h. Codes and scales are taken over, so that a weight has
the bits of gguf's own dequantization.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parallel.weights.quantize import pack_int4
from parallel.weights.stored_matrix import Matrix, StoredMatrix
from parallel.weights.weight_format import GROUP, HALF_GROUP, WeightFormat

Bytes = NDArray[np.uint8]

# Shapes: B = blocks of the tensor, G = groups of a block, K = weights of a group: 32, in Q6_K 16.


@dataclass(frozen=True, slots=True)
class _Groups:
    """The groups of a tensor, block by block."""

    codes: Bytes
    """[B, G, K]."""
    scales: NDArray[np.float16] | NDArray[np.float32]
    """[B, G]."""
    mins: NDArray[np.float16] | NDArray[np.float32] | None = None
    """[B, G]."""


@dataclass(frozen=True, slots=True)
class _BlockType:
    """A type of GGUF tensors that is held in groups."""

    form: WeightFormat
    unpack: Callable[[Bytes], _Groups]
    """The blocks of a tensor, [B, bytes of a block] -> its groups."""


def _q4_0(blocks: Bytes) -> _Groups:
    return _Groups(_halves(blocks[:, 2:]), _float16(blocks, 0))


def _q4_1(blocks: Bytes) -> _Groups:
    return _Groups(_halves(blocks[:, 4:]), _float16(blocks, 0), _float16(blocks, 2))


def _q5_0(blocks: Bytes) -> _Groups:
    codes = _halves(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return _Groups(codes + np.uint8(128 - 16), _float16(blocks, 0))


def _q5_1(blocks: Bytes) -> _Groups:
    codes = _halves(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return _Groups(codes, _float16(blocks, 0), _float16(blocks, 2))


def _q8_0(blocks: Bytes) -> _Groups:
    codes = blocks[:, 2:] ^ np.uint8(128)  # int8 plus 128
    return _Groups(codes[:, np.newaxis], _float16(blocks, 0))


def _q4_k(blocks: Bytes) -> _Groups:
    return _Groups(_pairs(blocks[:, 16:]), *_scales_of_k(blocks))


def _q5_k(blocks: Bytes) -> _Groups:
    shifts = np.arange(8, dtype=np.uint8)[:, np.newaxis]
    high = (blocks[:, np.newaxis, 16:48] >> shifts & np.uint8(1)) << np.uint8(4)
    return _Groups(_pairs(blocks[:, 48:]) | high, *_scales_of_k(blocks))


def _q6_k(blocks: Bytes) -> _Groups:
    # A block is two runs of 128 weights, each four times 32: the low and high halves of 64 bytes of
    # 4 bits, and the four places of 32 bytes of 2 bits.
    low = blocks[:, :128].reshape(-1, 2, 1, 64) >> np.array([[0], [4]], np.uint8) & np.uint8(15)
    shifts = np.array([[0], [2], [4], [6]], np.uint8)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & np.uint8(3)
    codes = low.reshape(-1, 2, 4, 32) | high << np.uint8(4)
    factors = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    scales = _float16(blocks, 208).astype(np.float32) * factors  # exact
    return _Groups((codes + np.uint8(128 - 32)).reshape(-1, 16, HALF_GROUP), scales)


_BLOCK_TYPES: Mapping[str, _BlockType] = {
    "Q4_0": _BlockType(WeightFormat.INT4, _q4_0),
    "Q4_1": _BlockType(WeightFormat.INT4, _q4_1),
    "Q5_0": _BlockType(WeightFormat.INT8, _q5_0),
    "Q5_1": _BlockType(WeightFormat.INT8, _q5_1),
    "Q8_0": _BlockType(WeightFormat.INT8, _q8_0),
    "Q4_K": _BlockType(WeightFormat.INT4, _q4_k),
    "Q5_K": _BlockType(WeightFormat.INT8, _q5_k),
    "Q6_K": _BlockType(WeightFormat.INT8, _q6_k),
}
_FLOAT_DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
SUPPORTED_TYPES = (*_FLOAT_DTYPES, *_BLOCK_TYPES)


def read_matrix(tensor: gguf.ReaderTensor) -> Matrix:
    """Return a matrix of a file in the format that holds it.

    Raises:
        ValueError: its type is not supported, or it holds numbers that are not finite.
    """
    check_type(tensor)
    name = tensor.tensor_type.name
    if name in _FLOAT_DTYPES:
        return _finite(tensor, _floats(tensor))
    kind = _BLOCK_TYPES[name]
    raw = np.ascontiguousarray(tensor.data).view(np.uint8)
    num_rows = raw.shape[0]
    groups = kind.unpack(raw.reshape(-1, gguf.GGML_QUANT_SIZES[tensor.tensor_type][1]))
    codes = torch.from_numpy(groups.codes.reshape(num_rows, -1))
    scales, mins = (
        None if part is None else _finite(tensor, torch.from_numpy(part.reshape(num_rows, -1)))
        for part in (groups.scales, groups.mins)
    )
    assert scales is not None
    return StoredMatrix(
        format=kind.form,
        codes=pack_int4(codes) if kind.form is WeightFormat.INT4 else codes,
        scales=scales,
        mins=mins,
    )


def dequantized(tensor: gguf.ReaderTensor) -> Tensor:
    """Return a tensor in float32, as gguf dequantizes it.

    Raises:
        ValueError: as `read_matrix`.
    """
    check_type(tensor)
    with np.errstate(invalid="ignore", over="ignore"):  # rejected below
        values = np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    return _finite(tensor, torch.from_numpy(values.copy()))


def check_type(tensor: gguf.ReaderTensor) -> None:
    """Raise ValueError for a tensor of a type that is not supported."""
    name = tensor.tensor_type.name
    if name not in SUPPORTED_TYPES:
        raise ValueError(
            f"{tensor.name} is stored as {name}, which is not supported; these types are: "
            f"{', '.join(SUPPORTED_TYPES)}"
        )


def _floats(tensor: gguf.ReaderTensor) -> Tensor:
    dtype = _FLOAT_DTYPES[tensor.tensor_type.name]
    raw = torch.from_numpy(np.array(tensor.data).view(np.uint8))
    return raw.view(dtype)


def _finite(tensor: gguf.ReaderTensor, values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise ValueError(f"{tensor.name} holds numbers that are not finite: is the file damaged?")
    return values


def _float16(blocks: Bytes, at: int) -> NDArray[np.float16]:
    """Return the number at a place of each block, [B, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16)


def _halves(packed: Bytes) -> Bytes:
    """Return 4-bit codes whose bytes hold weights j and j + 16, [B, 1, 32]."""
    return np.concatenate((packed & np.uint8(15), packed >> np.uint8(4)), axis=1)[:, np.newaxis]


def _pairs(packed: Bytes) -> Bytes:
    """Return 4-bit codes of which 32 bytes hold two groups, [B, 8, 32]."""
    bytes_of_pairs = packed.reshape(len(packed), 4, 1, GROUP)
    return np.concatenate(
        (bytes_of_pairs & np.uint8(15), bytes_of_pairs >> np.uint8(4)), axis=2
    ).reshape(len(packed), 8, GROUP)


def _fifth_bits(packed: Bytes) -> Bytes:
    """Return 16 where the bit of a weight is set, [B, 1, 32]."""
    return (np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4))[:, np.newaxis]


def _scales_of_k(blocks: Bytes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the scales and minima of a block of 8 groups, each [B, 8].

    They are 6-bit factors of two float16 numbers; their products are exact in float32.
    """
    low_scale, low_min, rest = (blocks[:, at : at + 4] for at in (4, 8, 12))
    top = np.uint8(0x30)
    scales = np.concatenate(
        (low_scale & np.uint8(63), rest & np.uint8(15) | low_scale >> np.uint8(2) & top), axis=1
    )
    mins = np.concatenate(
        (low_min & np.uint8(63), rest >> np.uint8(4) | low_min >> np.uint8(2) & top), axis=1
    )
    by, by_min = (_float16(blocks, at).astype(np.float32) for at in (0, 2))
    return by * scales, -(by_min * mins)
