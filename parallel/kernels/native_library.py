"""The library of native kernels: how it is found, and the structures of csrc/kernels.h."""

import ctypes
import hashlib
import logging
import os
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import ClassVar

from parallel.kernels.packed_matrix import PackedMatrix
from parallel.weights.weight_format import WeightFormat

SWITCH = "PACELINE_KERNELS"
"""Environment variable: `torch` leaves the library out; or the name of an instruction set."""
_SOURCES = Path(__file__).with_name("csrc")
_KINDS = {
    WeightFormat.FLOAT32: 0,
    WeightFormat.BFLOAT16: 1,
    WeightFormat.INT4: 2,
    WeightFormat.INT8: 3,
    WeightFormat.FLOAT16: 4,
}
_WIDE_SCALES, _HAS_MINS, _HALF_GROUPS = 1, 2, 4


class CMatrix(Structure):
    """`Matrix` of kernels.h."""

    _fields_: ClassVar = [
        ("data", c_void_p),
        ("bias", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("kind", c_int32),
        ("flags", c_int32),
    ]

    @classmethod
    def of(cls, packed: PackedMatrix, bias: int | None) -> "CMatrix":
        """Return the description of a weight; the caller keeps its memory, and the bias's."""
        flags = (
            _WIDE_SCALES * packed.has_wide_scales
            | _HAS_MINS * packed.has_mins
            | _HALF_GROUPS * packed.has_half_groups
        )
        return cls(
            packed.data.data_ptr(),
            bias,
            packed.num_rows,
            packed.num_columns,
            _KINDS[packed.format],
            flags,
        )


class CNorm(Structure):
    """`Norm` of kernels.h."""

    _fields_: ClassVar = [("weight", c_void_p), ("eps", c_float)]


class CAttention(Structure):
    """`Attention` of kernels.h."""

    _fields_: ClassVar = [
        ("before", CNorm),
        ("after", CNorm),
        ("query_norm", CNorm),
        ("key_norm", CNorm),
        ("qkv", CMatrix * 3),
        ("output", CMatrix),
        ("num_qkv", c_int32),
        ("num_query", c_int32),
        ("num_kv", c_int32),
        ("head_dim", c_int32),
        ("kind", c_int32),
        ("scale", c_float),
    ]


class CMlp(Structure):
    """`Mlp` of kernels.h."""

    _fields_: ClassVar = [
        ("before", CNorm),
        ("after", CNorm),
        ("gate_up", CMatrix * 2),
        ("down", CMatrix),
        ("num_gate_up", c_int32),
        ("inner", c_int32),
        ("activation", c_int32),
    ]


class CRows(Structure):
    """`Rows` of kernels.h."""

    _fields_: ClassVar = [
        ("turns", c_void_p),
        ("context", c_void_p),
        ("extra", c_void_p),
        ("first", c_void_p),
        ("stop", c_void_p),
        ("extra_first", c_void_p),
        ("extra_stop", c_void_p),
        ("address", c_void_p),
        ("num_rows", c_int64),
    ]


class CCache(Structure):
    """`Cache` of kernels.h."""

    _fields_: ClassVar = [("data", c_void_p), ("tokens", c_int64)]


class CLowRank(Structure):
    """`LowRank` of kernels.h."""

    _fields_: ClassVar = [("down", c_void_p), ("up", c_void_p), ("rank", c_int64)]


class CAdapters(Structure):
    """`Adapters` of kernels.h."""

    _fields_: ClassVar = [("of_row", c_void_p), ("parts", c_void_p)]


class NativeLibrary:
    """The loaded library; each function takes and returns memory that its caller owns."""

    def __init__(self, library: ctypes.CDLL, instructions: str) -> None:
        self.instructions = instructions
        """The instruction set in use: avx512_vnni, avx2 or plain."""
        pointer = c_void_p
        self.attention = library.kernels_attention
        self.attention.argtypes = [
            POINTER(CAttention),
            POINTER(CRows),
            POINTER(CCache),
            POINTER(CAdapters),
            c_int64,
            *[pointer] * 4,
            c_int,
        ]
        self.mlp = library.kernels_mlp
        self.mlp.argtypes = [
            POINTER(CMlp),
            c_int64,
            POINTER(CAdapters),
            c_int64,
            *[pointer] * 4,
            c_int,
        ]
        self.linear = library.kernels_linear
        self.linear.argtypes = [
            POINTER(CMatrix),
            POINTER(CNorm),
            pointer,
            c_int64,
            pointer,
            c_int,
        ]
        self.norm = library.kernels_norm
        self.norm.argtypes = [pointer, POINTER(CNorm), pointer, pointer, c_int64, c_int64, c_int]
        self.layers = library.kernels_layers
        self.layers.argtypes = [
            pointer,
            pointer,
            c_int64,
            pointer,
            POINTER(CCache),
            c_int64,
            POINTER(CAdapters),
            pointer,
            c_int,
        ]
        self.clocks = library.kernels_clocks
        self.clocks.argtypes = [pointer]
        functions = (self.attention, self.mlp, self.linear, self.norm, self.layers, self.clocks)
        for function in functions:
            function.restype = None


def sources_version() -> str:
    """Return the version of the sources, which a library built from them reports as its own."""
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(_SOURCES.iterdir()):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def native_library() -> NativeLibrary | None:
    """Return the library if it is built, current and wanted; else log why it is not used."""
    wanted = os.environ.get(SWITCH) or None
    if wanted == "torch":
        return None
    try:
        return load_library(wanted)
    except OSError as error:
        logging.getLogger("paceline.kernels").warning(
            "products and attention run on torch's operators, which is slower: %s", error
        )
        return None


def load_library(instructions: str | None = None) -> NativeLibrary:
    """Return the library, with the best instruction set of this processor or the named one.

    Raises:
        OSError: it is not built, is of other sources, or the processor lacks the instructions.
    """
    files = sorted(Path(__file__).parent.glob("_native*.so"))
    if not files:
        raise OSError(
            "the native kernels are not built: install a C compiler, and Paceline again with pip"
        )
    library = ctypes.CDLL(str(files[0]))
    library.kernels_version.restype = c_char_p
    if _SOURCES.is_dir() and library.kernels_version().decode() != sources_version():
        raise OSError(f"{files[0]} was built from other sources: install Paceline again")
    library.kernels_choose.argtypes = [c_char_p]
    library.kernels_choose.restype = c_char_p
    chosen = library.kernels_choose(None if instructions is None else instructions.encode())
    if chosen is None:
        raise OSError(f"this processor does not have the instructions {instructions!r}")
    return NativeLibrary(library, chosen.decode())
