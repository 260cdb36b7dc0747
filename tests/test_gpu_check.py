"""The check of a GPU reports every part, whatever the others do."""

from collections.abc import Callable

import pytest
import torch

from tests.support.gpu_check import (
    DecodeAttention,
    Figures,
    Part,
    attention,
    main,
    pytest_part,
    run_parts,
    table,
)
from tests.support.gpu_decode import ModelShape, build, decode_step
from tests.support.kernel_device import DEVICE


def fails() -> Figures:
    raise RuntimeError("out of | memory\nhere")


def test_a_part_that_fails_does_not_stop_the_others() -> None:
    parts = [Part(name="one", run=fails), Part(name="two", run=lambda: {"GB/s": 1234.5678})]
    one, two = run_parts(parts, 100)
    assert (one.status, one.reason) == ("failed", "RuntimeError: out of | memory\nhere")
    assert (two.status, two.figures) == ("ok", {"GB/s": 1234.5678})
    lines = table("a GPU", [one, two]).splitlines()
    assert lines[-2] == "| one | failed | RuntimeError: out of / memory here |"
    assert lines[-1] == "| two | ok | GB/s 1235 |"


def test_a_part_without_time_left_says_so() -> None:
    times = iter([0.0, 0.0, 80.0, 80.0])
    parts = [Part(name="long", run=dict), Part(name="late", run=fails)]
    _, late = run_parts(parts, 100, now=lambda: next(times))
    assert (late.status, late.reason) == ("not run", "20 s are left, it needs 30 s")


def test_tests_that_fail_are_named_and_no_tests_are_a_failure() -> None:
    with pytest.raises(AssertionError, match="deselected"):
        pytest_part(["tests/test_mirror.py", "-k", "no_such_test"], 200)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_claimed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "nothing was checked" in capsys.readouterr().err


def test_the_measured_attention_is_that_of_sdpa() -> None:
    def once(work: Callable[[], object]) -> float:
        work()
        return 0.5

    case = DecodeAttention(batch=2, context=40, num_heads=4, num_kv=2, dim=64)
    figures = attention(case, device=DEVICE, measure=once)
    assert figures["split us"] == 5e5
    assert 0 < float(figures["largest difference"]) < 2e-2


def test_a_measured_step_is_checked_and_compared_with_the_time_to_read_memory() -> None:
    pytest.importorskip("triton")
    shape = ModelShape(name="tiny", hidden=32, inner=48, layers=1, heads=2, kv=1, vocab=64, dim=16)
    model = build(shape, max_batch=2, context=20, device=DEVICE)
    figures = decode_step(
        model,
        batch=2,
        context=20,
        bytes_per_s=1e3,
        recorded=None,
        measure=lambda work: 2.0 if work() is not None else 0.0,
    )
    matrices = 32 * (32 + 16 + 16 + 32 + 3 * 48 + 64) + 3 * 32
    floor_s = (2 * matrices + 2 * 20 * 2 * 2 * 16) / 1e3
    assert figures["floor ms"] == pytest.approx(1e3 * floor_s)
    assert figures["share of floor"] == pytest.approx(floor_s / 2)
    assert figures["graph"] == "none"
