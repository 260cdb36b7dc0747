"""Gradient codes: every survivor set, loads, numerics, rejections."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from parallel.training.gradient_coding.codes import (
    ClassCode,
    CyclicCode,
    FractionalRepetition,
    GradientCode,
    replication_code,
)

MOST = 8


def sizes() -> Iterator[tuple[int, int]]:
    return ((n, s) for n in range(1, MOST + 1) for s in range(n))


def results(code: GradientCode, gradients: np.ndarray) -> list[np.ndarray]:
    """Return what each worker sends."""
    return [
        sum(
            (gradients[chunk] * (int(value) if value == 1 else value))
            for chunk, value in code.row(worker)
        )
        for worker in range(code.num_workers)
    ]


@pytest.mark.parametrize("make", [replication_code, ClassCode])
def test_replication_decodes_every_survivor_set_in_whole_numbers(
    make: Callable[[int, int], GradientCode],
) -> None:
    rng = np.random.default_rng(0)
    num_patterns = 0
    for n, s in sizes():
        code = make(n, s)
        gradients = rng.integers(-1000, 1000, (code.num_chunks, 3), dtype=np.int32)
        sent = results(code, gradients)
        for missing in range(s + 1):
            for lost in combinations(range(n), missing):
                weights = code.decode(set(range(n)) - set(lost))
                assert weights is not None
                assert set(weights.values()) <= {1.0}
                assert not set(weights) & set(lost)
                total = sum(sent[worker] for worker in weights)
                assert (total == gradients.sum(axis=0)).all()
                num_patterns += 1
    assert num_patterns > 1000


@pytest.mark.parametrize("seed", [0, 1])
def test_cyclic_codes_decode_every_survivor_set(seed: int) -> None:
    num_decoded = num_declined = 0
    for n, s in sizes():
        codes = [CyclicCode.random(n, s, seed)]
        if s == 0 or (n - s) % 2:
            codes.append(CyclicCode.roots_of_unity(n, s, seed))
        for code in codes:
            matrix = np.zeros((n, n))
            for worker in range(n):
                assert len(code.row(worker)) == s + 1
                for chunk, value in code.row(worker):
                    matrix[worker, chunk] = value
            for missing in range(s + 1):
                for lost in combinations(range(n), missing):
                    weights = code.decode(set(range(n)) - set(lost))
                    if weights is None:  # only for the digits that it would lose
                        num_declined += 1
                        continue
                    num_decoded += 1
                    vector = np.zeros(n)
                    vector[list(weights)] = list(weights.values())
                    np.testing.assert_allclose(vector @ matrix, np.ones(n), atol=1e-8)
                    assert not vector[list(lost)].any()
    assert num_decoded > 50 * num_declined


def test_a_group_that_is_lost_whole_is_not_decodable() -> None:
    code = FractionalRepetition(6, 1)
    assert code.decode({0, 1, 4, 5}) is None
    assert code.decode({0, 2, 4}) is not None  # more than s are missing, but one of each group
    assert ClassCode(5, 1).decode({0, 1, 2}) is None


@pytest.mark.parametrize(
    ("n", "s", "load"),
    [(10, 3, "1/2"), (16, 2, "1/5"), (256, 27, "1/9"), (30, 7, "1/3")],
)
def test_class_loads(n: int, s: int, load: str) -> None:
    code = ClassCode(n, s)
    assert code.load == Fraction(load)
    most = max(len(code.row(worker)) for worker in range(n))
    assert Fraction(most, code.num_chunks) == code.load


def test_a_cyclic_code_declines_to_lose_digits() -> None:
    code = CyclicCode.roots_of_unity(64, 15)
    order = [code.row(worker)[0][0] for worker in range(64)]
    neighbours = {worker for worker in range(64) if order[worker] < 15}
    assert code.decode(set(range(64)) - neighbours) is None
    whole = code.decode(range(64))
    assert whole is not None
    assert code.amplification(whole) < 1.5


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: FractionalRepetition(8, 2), "with 8 workers s can be 0, 1, 3, 7, not 2"),
        (lambda: ClassCode(4, 4), "s = 4 of 4 workers may be missing: take 0 to 3"),
        (lambda: CyclicCode.roots_of_unity(8, 2), "complex: take s = 1 or s = 3"),
        (lambda: CyclicCode.random(0, 0), "0 workers: at least 1 is needed"),
    ],
)
def test_impossible_parameters_are_rejected(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()
