"""Counter-based random numbers: a request's noise is a function of names, not of what ran before.

Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The key is
(seed, request); the counter's four words are (block, 0, position, purpose), so each
(request, position, purpose) owns 2**64 blocks of four numbers and no two streams overlap (the
one-number rule of docs/exactness.md).
"""

from collections.abc import Sequence
from enum import IntEnum
from hashlib import blake2b

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

from parallel.decoding.types import RngKey

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

_WORDS = 4  # 64-bit words in one Philox block
_ACCESS_WORDS = 24_000  # words drawn in sequence in the time that random access costs at least,
_INDEX_WORDS = 32  # and in the time that it costs for each index (measured on two x86 cores)
_BITS_DROPPED = np.uint64(12)
_STEP = 2.0**-52
_LOW = np.uint64(0xFFFF_FFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = np.array([[0xD2E7470EE14C6C93], [0xCA5A826395121157]], dtype=np.uint64)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_WORD_MASK = 2**64 - 1


class Purpose(IntEnum):
    """What a number decides; numbers of different purposes are independent."""

    SAMPLE = 0
    """Gumbel noise of the target's own sample, and of drafts coupled with it."""
    DRAFT = 1
    """The draw of a draft token."""
    ACCEPT = 2
    """The acceptance test of a draft token; one number for each sibling."""
    RECOVER = 3
    """The recovered or bonus token after rejection tests."""


def request_key(prompt_ids: Sequence[int], sample_index: int) -> int:
    """Return 64 bits that name a sample of a prompt, the same for every client and at any time."""
    words = np.asarray([len(prompt_ids), *prompt_ids, sample_index], dtype="<i8")
    digest = blake2b(words.tobytes(), digest_size=8, person=b"paceline").digest()
    return int.from_bytes(digest, "little")


def uniforms(key: RngKey, position: int, purpose: Purpose, size: int) -> Floats:
    """Return the first `size` numbers of a stream, each in the open interval (0, 1).

    Args:
        key: whose stream.
        position: index of the output token that the numbers decide, at least 0.
        purpose: what they decide.
        size: how many; a longer call starts with the same numbers.
    """
    return _open_interval(_stream(key, position, purpose).random_raw(size))


def uniform(key: RngKey, position: int, purpose: Purpose, *, index: int = 0) -> float:
    """Return number `index` of a stream, in the open interval (0, 1)."""
    raw = _stream(key, position, purpose, index // _WORDS).random_raw(index % _WORDS + 1)
    return (int(raw[-1] >> _BITS_DROPPED) + 0.5) * _STEP


def uniforms_at(key: RngKey, position: int, purpose: Purpose, indices: Ints) -> Floats:
    """Return the numbers at `indices` of a stream, as `uniforms(...)[indices]` would.

    Args:
        key: whose stream.
        position: as in `uniforms`.
        purpose: as in `uniforms`.
        indices: [num], not negative, in any order; few of them cost less than the whole stream.
    """
    if not len(indices):
        return np.empty(0)
    size = int(indices.max()) + 1
    if size <= _ACCESS_WORDS + _INDEX_WORDS * len(indices):
        raw = _stream(key, position, purpose).random_raw(size)[indices]
    else:
        raw = _raw_at(key, position, purpose, indices.astype(np.uint64))
    return _open_interval(raw)


def philox_blocks(counter_4N: Words, key: tuple[int, int]) -> Words:
    """Return the [4, N] Philox4x64-10 outputs of N counters (lowest word first)."""
    even, odd = counter_4N[0::2], counter_4N[1::2]
    low_m, high_m = _MULTIPLIERS & _LOW, _MULTIPLIERS >> _HALF
    keys_R21 = np.array(
        [
            [[(word + number * step) & _WORD_MASK] for word, step in zip(key, _WEYL, strict=True)]
            for number in range(_ROUNDS)
        ],
        dtype=np.uint64,
    )
    for keys in keys_R21:
        low, high = even & _LOW, even >> _HALF
        middle = high * low_m + (low * low_m >> _HALF)
        carry = low * high_m + (middle & _LOW)
        top = high * high_m + (middle >> _HALF) + (carry >> _HALF)
        even, odd = top[::-1] ^ odd ^ keys, (even * _MULTIPLIERS)[::-1]
    return np.stack([even[0], odd[0], even[1], odd[1]])


def _stream(key: RngKey, position: int, purpose: Purpose, block: int = 0) -> Philox:
    # As arrays: numpy reads a tuple with a word above 2**63 as floats and loses its low bits.
    return Philox(
        key=np.array((key.seed, key.request), dtype=np.uint64),
        counter=np.array((block, 0, position, int(purpose)), dtype=np.uint64),
    )


def _open_interval(raw: Words) -> Floats:
    """Return numbers of the open interval; eats `raw`."""
    # 52 bits and a half: with 53 the largest number would round to 1.
    raw >>= _BITS_DROPPED
    floats = raw.astype(np.float64)
    floats += 0.5
    floats *= _STEP
    return floats


def _raw_at(key: RngKey, position: int, purpose: Purpose, indices: Words) -> Words:
    counter = np.zeros((_WORDS, len(indices)), dtype=np.uint64)
    counter[0] = indices // _WORDS + 1  # numpy steps the counter before it draws a block
    counter[2] = position
    counter[3] = int(purpose)
    blocks = philox_blocks(counter, (key.seed, key.request))
    picked: Words = np.take_along_axis(blocks, (indices % _WORDS).astype(np.intp)[None], axis=0)[0]
    return picked
