"""The shape of a step: the sizes of its arrays, and where each array lies in one buffer."""

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields, replace
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parallel.device_kernels.step_kernels import BITS_PER_WORD

_Array = TypeVar("_Array")
_ALIGNMENT = 16  # words; 64 bytes
_DRAW_WORDS = 8  # int32 words of a draw: four of 64 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """How many of each thing a step has room for."""

    rows: int
    """Tokens of the batch, padding included."""
    sequences: int
    pages: int
    """Pages of the longest context."""
    tiles: int
    """Tiles of attention (`AttentionRows.tiles`)."""
    scored: int
    """Rows whose logits are computed."""
    nodes: int
    """Draft tokens of a sequence."""
    moves: int
    """Cached tokens that are moved."""
    kinds: int
    """Kinds of attention (`ModelConfig.attention_kinds`)."""

    @property
    def words(self) -> int:
        """Words of bits for each row: enough for the largest tree."""
        return max(1, -(-self.nodes // BITS_PER_WORD))

    @property
    def num_words(self) -> int:
        """Int32 words of the whole buffer."""
        return sum(section.room for section in _sections(self))

    def covers(self, other: "StepShape") -> bool:
        """Return whether a step of another shape fits into this one."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return self.kinds == other.kinds and all(mine >= theirs for mine, theirs in pairs)

    def wider(self, **sizes: int) -> "StepShape":
        """Return this shape with other sizes."""
        return replace(self, **sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepArrays(Generic[_Array]):
    """The arrays of a step: views of its buffer, int32 where no other type is named."""

    token_ids: _Array
    """[rows]; padding has 0."""
    positions: _Array
    """[rows]; padding has 0."""
    addresses: _Array
    """[rows]: where the row's key and value go; padding has -1."""
    tiles: _Array
    """[tiles, 3], as `AttentionRows` has them. Rows of padding are in tiles too."""
    ranges: _Array
    """[kinds, rows, 3], for each kind of attention; a padding row sees nothing."""
    bits: _Array
    """[kinds, rows, words]."""
    trees: _Array
    """[sequences]."""
    tables: _Array
    """[sequences, pages]."""
    scored: _Array
    """[scored]: the rows whose logits are computed; padding has 0."""
    draws: _Array
    """[scored, 4], int64: seed, request, output position and the temperature's bits (float64)."""
    drafts: _Array
    """[sequences, 2]: index of the first scored row, and their number."""
    node_tokens: _Array
    """[sequences, nodes]: the draft tokens; node i is scored by row i + 1 of `drafts`."""
    node_parents: _Array
    """[sequences, nodes]: the node before each; -1 is the root."""
    move_offsets: _Array
    """[sequences + 1]."""
    moves: _Array
    """[moves, 2]: addresses a cached token goes from and to."""


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def room(self) -> int:
        """Return its words in the buffer, with those that align the next section."""
        return -(-self.size // _ALIGNMENT) * _ALIGNMENT


def host_arrays(buffer: NDArray[np.int32], shape: StepShape) -> StepArrays[NDArray[np.int32]]:
    """Return the arrays of a step in host memory; `draws` keeps its int32 words, [scored, 8]."""
    return StepArrays(
        **{section.name: part.reshape(section.dims) for section, part in _parts(buffer, shape)}
    )


def device_arrays(buffer: Tensor, shape: StepShape) -> StepArrays[Tensor]:
    """Return the arrays of a step in a buffer of `shape.num_words`, int32, on any device."""
    arrays = {s.name: buffer[first:stop].view(s.dims) for s, first, stop in _places(shape)}
    arrays["draws"] = arrays["draws"].view(torch.int64)
    return StepArrays(**arrays)


def _parts(
    buffer: NDArray[np.int32], shape: StepShape
) -> Iterator[tuple[_Section, NDArray[np.int32]]]:
    for section, first, stop in _places(shape):
        yield section, buffer[first:stop]


def _places(shape: StepShape) -> Iterator[tuple[_Section, int, int]]:
    """Yield each section, with its first word and the one past its last."""
    first = 0
    for section in _sections(shape):
        yield section, first, first + section.size
        first += section.room


def _sections(shape: StepShape) -> list[_Section]:
    rows, sequences, scored = (shape.rows,), (shape.sequences,), (shape.scored,)
    dims = {
        "token_ids": rows,
        "positions": rows,
        "addresses": rows,
        "tiles": (shape.tiles, 3),
        "ranges": (shape.kinds, shape.rows, 3),
        "bits": (shape.kinds, shape.rows, shape.words),
        "trees": sequences,
        "tables": (shape.sequences, shape.pages),
        "scored": scored,
        "draws": (shape.scored, _DRAW_WORDS),
        "drafts": (shape.sequences, 2),
        "node_tokens": (shape.sequences, shape.nodes),
        "node_parents": (shape.sequences, shape.nodes),
        "move_offsets": (shape.sequences + 1,),
        "moves": (shape.moves, 2),
    }
    return [_Section(field.name, dims[field.name]) for field in fields(StepArrays)]
