"""Sequential codes on random patterns: every job in time, loads as in the formulas."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from parallel.training.gradient_coding.codes import CyclicCode, replication_code
from parallel.training.gradient_coding.patterns import Arbitrary, Bursty, GilbertElliott, History
from parallel.training.gradient_coding.schemes import remembered
from parallel.training.gradient_coding.sequential import MakeCode, Multiplexed, SelectiveRepeat
from tests.support.coded_rounds import draw_pattern, run_pattern

M_SGC = [
    (4, 1, 2, 1), (4, 1, 2, 2), (4, 1, 2, 4), (4, 2, 3, 4), (4, 2, 3, 2), (5, 1, 3, 2),
    (5, 2, 4, 3), (6, 3, 5, 2), (6, 2, 3, 5), (5, 1, 2, 0),
]  # fmt: skip
SR_SGC = [
    (4, 1, 2, 2), (4, 1, 2, 3), (6, 2, 3, 3), (6, 1, 3, 4), (6, 2, 5, 4), (8, 2, 3, 5),
    (8, 3, 4, 6),
]  # fmt: skip
NUM_PATTERNS = 60


CODES = [replication_code, CyclicCode.random]


@pytest.mark.parametrize("make_code", CODES)
@pytest.mark.parametrize(("n", "burst", "window", "most"), M_SGC)
def test_multiplexed_has_every_job_in_time(
    n: int, burst: int, window: int, most: int, make_code: MakeCode
) -> None:
    scheme = Multiplexed(n, burst, window, most, make_code)
    num_jobs = scheme.delay + 5
    families = (
        Bursty(burst=burst, window=window, most=most),
        Arbitrary(times=burst, window=window + burst - 1, most=most),
    )
    largest = 0.0
    for seed in range(NUM_PATTERNS):
        family = families[seed % 2]
        history = draw_pattern(family.conforms, num_jobs + scheme.delay, n, seed)
        assert all(scheme.conforms(history[: stop + 1]) for stop in range(len(history)))
        right, load = run_pattern(scheme, history, num_jobs)
        assert right == list(range(num_jobs))
        largest = max(largest, load)
    assert sum(scheme.chunk_sizes) == 1
    assert largest == pytest.approx(float(scheme.load))
    if n % (most + 1) == 0 or (make_code == CyclicCode.random and most < n):
        parts = n * (burst + (window - 1) * (most + 1))
        assert scheme.load == Fraction((most + 1) * (window - 1 + burst), parts)
    if most == n:
        assert scheme.load == Fraction(window - 1 + burst, n * (window - 1))


@pytest.mark.parametrize("make_code", CODES)
@pytest.mark.parametrize(("n", "burst", "window", "most"), SR_SGC)
def test_selective_repeat_has_every_job_in_time(
    n: int, burst: int, window: int, most: int, make_code: MakeCode
) -> None:
    scheme = SelectiveRepeat(n, burst, window, most, make_code)
    num_jobs = 12
    bursty = Bursty(burst=burst, window=window, most=most)
    rules = (
        bursty.conforms,
        lambda history: bool(history[-1].sum() <= scheme.per_round),
        scheme.conforms,  # both kinds of round, mixed
    )
    for seed in range(NUM_PATTERNS):
        history = draw_pattern(rules[seed % 3], num_jobs + scheme.delay, n, seed)
        right, load = run_pattern(scheme, history, num_jobs)
        assert right == list(range(num_jobs))
        assert load == pytest.approx(float(scheme.load))
    if make_code == CyclicCode.random:
        assert scheme.load == Fraction(scheme.per_round + 1, n)


@pytest.mark.parametrize(("burst", "window"), [(1, 2), (2, 3), (2, 5), (3, 4)])
def test_what_a_scheme_remembers_is_enough(burst: int, window: int) -> None:
    scheme = SelectiveRepeat(6, burst, window, 4)
    for seed in range(8):
        history = draw_pattern(scheme.conforms, 5 * window, 6, seed)
        for row in np.random.default_rng(seed).random((40, 6)) < 0.4:
            whole = np.vstack([history, row])
            short = np.vstack([remembered(scheme, history), row])
            assert scheme.conforms(whole) == scheme.conforms(short)


@pytest.mark.parametrize(
    ("burst", "window", "by_most"),
    [
        (1, 2, ("4/3", "3/2", "5/3", "9/5", "2")),
        (1, 3, ("6/5", "9/7", "15/11", "27/19", "3/2")),
        (1, 5, ("10/9", "15/13", "25/21", "45/37", "5/4")),
        (2, 3, ("4/3", "3/2", "5/3", "9/5", "2")),
        (2, 5, ("6/5", "9/7", "15/11", "27/19", "3/2")),
        (3, 5, ("14/11", "7/5", "35/23", "21/13", "7/4")),
    ],
)
def test_work_against_plain_data_parallel(
    burst: int, window: int, by_most: tuple[str, ...]
) -> None:
    n = 90  # every code comes out even
    for most, times in zip((1, 2, 4, 8, n), by_most, strict=True):
        assert n * Multiplexed(n, burst, window, most).load == Fraction(times)


def test_without_stragglers_to_fear_it_is_plain_data_parallel() -> None:
    scheme = Multiplexed(5, 1, 2, 0)
    assert scheme.load == Fraction(1, 5)


def test_constants_of_the_paper() -> None:
    assert SelectiveRepeat(256, 2, 3, 23).per_round == 12
    multiplexed = Multiplexed(256, 1, 2, 27)
    # The codes of the paper are cyclic; repeating costs more where it does not come out even.
    papers = Multiplexed(256, 1, 2, 27, CyclicCode.random)
    assert float(papers.load) == pytest.approx(0.0075431, abs=1e-7)
    assert papers.load < multiplexed.load < papers.load * Fraction(102, 100)
    repeat = SelectiveRepeat(256, 2, 3, 23, CyclicCode.random)
    assert float(repeat.load) == pytest.approx(0.0507813, abs=1e-7)
    assert repeat.load < SelectiveRepeat(256, 2, 3, 23).load < repeat.load * Fraction(104, 100)
    assert float(replication_code(256, 15).load) == 0.0625
    assert multiplexed.delay == 1
    assert SelectiveRepeat(256, 2, 3, 23).delay == 2
    for burst, window in ((1, 2), (2, 3), (3, 5)):
        for most in (7, 8):
            bound = Fraction(window - 1 + burst, 8 * (window - 1) + burst * (8 - most))
            assert Multiplexed(8, burst, window, most).load == bound


@pytest.mark.parametrize(
    ("burst", "window", "most"), [(1, 2, 1), (1, 2, 4), (2, 3, 1), (2, 4, 2), (3, 5, 2)]
)
def test_a_burst_that_is_too_long_is_rejected_and_would_lose_the_job(
    burst: int, window: int, most: int
) -> None:
    scheme = Multiplexed(4, burst, window, most)
    num_jobs = 6
    history = np.zeros((num_jobs + scheme.delay, 4), dtype=np.bool_)
    history[0 : burst + 1, 0] = True
    assert scheme.conforms(history[:burst])
    assert not scheme.conforms(history[: burst + 1])
    assert 0 not in run_pattern(scheme, history, num_jobs)[0]
    history[0, 0] = False  # a round less, and nothing is lost
    assert run_pattern(scheme, history, num_jobs)[0] == list(range(num_jobs))


def test_repeats_that_are_late_too_are_rejected_and_would_lose_the_job() -> None:
    scheme = SelectiveRepeat(6, 1, 2, 2)
    history = np.zeros((7, 6), dtype=np.bool_)
    history[0, [0, 1]] = True  # a pair; one of them repeats in the next round
    assert scheme.conforms(history[:1])
    history[1, 0] = True
    assert not scheme.conforms(history[:2])
    assert 0 not in run_pattern(scheme, history, 6)[0]


def test_too_many_stragglers_in_a_window_are_rejected() -> None:
    scheme = Multiplexed(4, 1, 3, 2)
    history = np.zeros((3, 4), dtype=np.bool_)
    history[0, 0] = history[1, 1] = True
    assert scheme.conforms(history[:2])
    history[2, 2] = True
    assert not scheme.conforms(history)


def brute_force(family: Bursty | Arbitrary, history: History) -> bool:
    """Check every window of the definition."""
    for start in range(len(history)):
        rows = history[start : start + family.window]
        if rows.any(axis=0).sum() > family.most:
            return False
        if isinstance(family, Arbitrary):
            if (rows.sum(axis=0) > family.times).any():
                return False
        elif (rows[0] & rows[family.burst :].any(axis=0)).any():
            return False
    return True


@pytest.mark.parametrize(
    "family",
    [
        Bursty(burst=1, window=3, most=1),
        Bursty(burst=2, window=4, most=2),
        Arbitrary(times=2, window=4, most=1),
        Arbitrary(times=1, window=3, most=2),
    ],
    ids=str,
)
def test_checking_round_by_round_equals_the_definition(family: Bursty | Arbitrary) -> None:
    """On all patterns of two workers over eight rounds that conform up to their last round."""
    num_checked = 0
    conforming = [np.zeros((0, 2), dtype=np.bool_)]
    for _ in range(8):
        longer = []
        for history, row in product(conforming, product((False, True), repeat=2)):
            whole = np.vstack([history, row])
            num_checked += 1
            assert family.conforms(whole) == brute_force(family, whole)
            if family.conforms(whole):
                longer.append(whole)
        conforming = longer
    assert num_checked > 300


def test_gilbert_elliott_has_its_rates() -> None:
    history = GilbertElliott(p_slow=0.05, p_fast=0.5).draw(4000, 16, seed=1)
    assert history.mean() == pytest.approx(0.05 / 0.55, rel=0.05)
    starts = (history[1:] & ~history[:-1]).sum()
    assert history.sum() / starts == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: SelectiveRepeat(8, 2, 4, 3), "with B = 2 the W next to 4 is"),
        (lambda: SelectiveRepeat(8, 2, 3, 8), "lambda below the 8 workers, not 8"),
        (lambda: Multiplexed(8, 2, 2, 1), "B = 2 and W = 2: 1 <= B < W"),
        (lambda: Multiplexed(8, 1, 2, 9), "lambda = 9: take 0 to the 8 workers"),
    ],
)
def test_impossible_parameters_are_rejected(make: object, text: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=text):
        make()
