"""Counter randomness: known answers, independence of streams, random access."""

from itertools import product

import numpy as np
import pytest
from numpy.random import Philox
from scipy.stats import chisquare, kstest

from parallel.decoding.rng import (
    Purpose,
    philox_blocks,
    request_key,
    uniform,
    uniforms,
    uniforms_at,
)
from parallel.decoding.types import RngKey

KEY = RngKey(seed=2**64 - 3, request=2**63 + 5)
PI = (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        (
            (0, 0, 0, 0),
            (0, 0),
            (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B),
        ),
        (
            (2**64 - 1,) * 4,
            (2**64 - 1,) * 2,
            (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
        ),
        (
            PI,
            (0x452821E638D01377, 0xBE5466CF34E90C6C),
            (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
        ),
    ],
)
def test_philox_gives_the_answers_published_with_random123(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    blocks = philox_blocks(np.array(counter, dtype=np.uint64)[:, None], key)
    assert tuple(blocks[:, 0].tolist()) == expected


def test_a_stream_is_numpys_philox_at_the_documented_counter() -> None:
    counter = np.array([0, 0, 7, int(Purpose.ACCEPT)], dtype=np.uint64)
    key = np.array([KEY.seed, KEY.request], dtype=np.uint64)
    raw = Philox(key=key, counter=counter).random_raw(9)
    expected = [((int(word) >> 12) + 0.5) / 2**52 for word in raw]
    assert uniforms(KEY, 7, Purpose.ACCEPT, 9).tolist() == expected


def test_numbers_never_change() -> None:
    numbers = uniforms(RngKey(seed=1, request=2), 3, Purpose.SAMPLE, 3)
    assert numbers.tolist() == [0.7189388877276962, 0.41126597421331457, 0.04623857368614115]
    assert request_key((1, 2, 3), sample_index=0) == 11158111594210021484


def test_random_access_gives_the_same_numbers() -> None:
    numbers = uniforms(KEY, 11, Purpose.SAMPLE, 120_000)
    for ids in ([0], [119_999, 3, 3, 4], list(range(0, 120_000, 977)), list(range(50))):
        picked = uniforms_at(KEY, 11, Purpose.SAMPLE, np.array(ids))
        assert picked.tolist() == numbers[ids].tolist()
    assert uniforms_at(KEY, 11, Purpose.SAMPLE, np.array([], dtype=np.int64)).tolist() == []
    for index in (0, 1, 4, 77):
        assert uniform(KEY, 11, Purpose.SAMPLE, index=index) == numbers[index]


def test_numbers_are_uniform_inside_the_open_interval() -> None:
    numbers = uniforms(KEY, 0, Purpose.SAMPLE, 100_000)
    assert 0 < numbers.min() <= numbers.max() < 1
    assert kstest(numbers, "uniform").pvalue > 1e-4


def test_the_extremes_of_the_generator_stay_inside_the_open_interval() -> None:
    largest = ((2**64 - 1 >> 12) + 0.5) * 2.0**-52
    assert 0 < 0.5 * 2.0**-52 < largest < 1


def test_no_two_streams_share_a_number() -> None:
    keys = [RngKey(seed=s, request=r) for s, r in product((0, 1, 2**63), (0, 1, 2**63))]
    drawn = [
        number
        for key, position, purpose in product(keys, (0, 1, 2, 500), Purpose)
        for number in uniforms(key, position, purpose, 40).tolist()
    ]
    assert len(set(drawn)) == len(drawn)


def test_neighbouring_streams_are_independent() -> None:
    def firsts(purpose: Purpose, shift: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        numbers = [uniform(KEY, position + shift, purpose) for position in range(4000)]
        return (np.array(numbers) * 4).astype(np.int64)

    base = firsts(Purpose.ACCEPT, 0)
    for other in (firsts(Purpose.ACCEPT, 1), firsts(Purpose.RECOVER, 0), firsts(Purpose.DRAFT, 0)):
        counts = np.bincount(base * 4 + other, minlength=16)
        assert chisquare(counts).pvalue > 1e-4


def test_request_key_depends_on_prompt_and_sample_alone() -> None:
    assert request_key([1, 2], sample_index=0) == request_key((1, 2), sample_index=0)
    keys = {request_key(p, sample_index=s) for p in ((), (1,), (1, 2), (2, 1)) for s in range(3)}
    assert len(keys) == 12
    assert all(0 <= key < 2**64 for key in keys)
