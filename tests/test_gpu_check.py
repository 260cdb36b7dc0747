"""The check of a GPU reports every part, whatever the others do."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.gpu_check import (
    Figures,
    NotHere,
    Part,
    Row,
    check,
    in_own_process,
    main,
    outcome,
    run_parts,
    table,
)
from tests.support.gpu_decode import ModelShape, build, decode_step
from tests.support.gpu_measures import DecodeAttention, attention, launches
from tests.support.gpu_parts import all_parts, pytest_part
from tests.support.gpu_pearl import (
    ON_ONE_GPU,
    ON_THE_CPU,
    Setting,
    pearl,
    pearl_figures,
    transformers,
)
from tests.support.kernel_device import DEVICE

TINY = ModelShape(name="tiny", hidden=32, inner=48, layers=1, heads=2, kv=1, vocab=64, dim=16)


def fails() -> Figures:
    raise RuntimeError("out of | memory\nhere")


def is_missing() -> Figures:
    raise NotHere("1 GPU: two are needed")


def test_a_part_that_fails_does_not_stop_the_others() -> None:
    parts = [
        Part(name="one", run=fails),
        Part(name="two", run=lambda: {"GB/s": 1234.5678}),
        Part(name="three", run=is_missing),
    ]
    one, two, three = run_parts(parts, 100, lambda part, _: outcome(part))
    assert (one.status, one.reason) == ("failed", "RuntimeError: out of | memory\nhere")
    assert (two.status, two.figures) == ("ok", {"GB/s": 1234.5678})
    assert (three.status, three.reason) == ("not run", "1 GPU: two are needed")
    lines = table("a GPU", [one, two, three]).splitlines()
    assert lines[-3] == "| one | failed | RuntimeError: out of / memory here |"
    assert lines[-2] == "| two | ok | GB/s 1235 |"


def test_no_part_runs_past_the_budget_of_all() -> None:
    clock = 0.0
    limits: list[float] = []

    def start(part: Part, limit_s: float) -> Row:
        nonlocal clock
        limits.append(limit_s)
        clock += limit_s
        return Row(part=part.name, status="ok")

    parts = [Part(name="long", run=dict, limit_s=60), Part(name="cut", run=dict, limit_s=60)]
    last = Part(name="late", run=fails, needs_s=30)
    *_, late = run_parts([*parts, last], 100, start, now=lambda: clock)
    assert limits == [60, 40]
    assert (late.status, late.reason) == ("not run", "0 s are left, it needs 30 s")


def child(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_part_has_a_process_that_is_ended_when_it_hangs() -> None:
    part = Part(name="one", run=dict)
    row = '{"part": "one", "status": "ok", "figures": {"GB/s": 2.0}, "reason": "", "seconds": 1.0}'
    found = in_own_process(part, 60, child(f"print('note'); print({row!r}); print('a warning')"))
    assert found == Row(part="one", status="ok", figures={"GB/s": 2.0}, seconds=1.0)
    found = in_own_process(part, 60, child("import os; print('so'); os._exit(3)"))
    assert (found.status, found.reason) == ("failed", "its process ended with 3: so")
    begin = time.monotonic()
    found = in_own_process(part, 6, child("import time; time.sleep(600)"))
    assert (found.status, found.reason) == ("failed", "stopped after 6 s")
    assert time.monotonic() - begin < 60


def test_the_files_have_every_part_that_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.gpu_check.in_own_process", lambda part, _: outcome(part))
    parts = [Part(name="one", run=is_missing), Part(name="two", run=lambda: {"ms": 2.0})]
    assert check(parts, "a GPU", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["status"] for row in found["parts"]] == ["not run", "ok"]
    assert "| two | ok | ms 2 |" in (tmp_path / "out.md").read_text()
    assert check([Part(name="bad", run=fails), *parts], "a GPU", tmp_path / "out") == 1


def test_the_named_parts_are_those_of_the_check_and_each_is_bounded() -> None:
    parts = all_parts()
    assert len({part.name for part in parts}) == len(parts)
    assert all(part.needs_s <= part.limit_s <= 120 for part in parts)
    for word in ("gpu", "kernels", "copy", "attention", "32B", "gRPC", "one GPU", "NCCL"):
        assert any(word in part.name for part in parts)


def test_tests_that_fail_are_named_and_no_tests_are_a_failure() -> None:
    with pytest.raises(AssertionError, match="deselected"):
        pytest_part(["tests/test_mirror.py", "-k", "no_such_test"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_claimed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(all_parts(), []) == 2
    assert "nothing was checked" in capsys.readouterr().err


def test_the_measured_attention_is_that_of_sdpa() -> None:
    pytest.importorskip("triton")

    def once(work: Callable[[], object]) -> float:
        work()
        return 0.5

    case = DecodeAttention(batch=2, context=40, num_heads=4, num_kv=2, dim=64)
    figures = attention(case, device=DEVICE, measure=once)
    assert figures["split us"] == 5e5
    assert 0 < float(figures["largest difference"]) < 2e-2


def test_a_measured_step_is_checked_and_compared_with_the_time_to_read_memory() -> None:
    pytest.importorskip("triton")
    model = build(TINY, max_batch=2, context=20, device=DEVICE)
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


def test_a_step_with_too_many_kernels_is_a_failure() -> None:
    pytest.importorskip("triton")

    def counted(kernels: int) -> Figures:
        return launches(TINY, batches=(1,), context=4, device=DEVICE, count=lambda _: kernels)

    assert counted(30) == {"batch 1, kernels": 30}
    with pytest.raises(AssertionError, match="30 at most"):
        counted(31)


ROWS: list[dict[str, object]] = [
    {"mode": "autoregressive", "identical": True, "tokens_per_s": 50.0, "ratio_to_first": 1.0},
    {
        "mode": "pearl",
        "identical": True,
        "tokens_per_s": 75.0,
        "ratio_to_first": 1.5,
        "acceptance_rate": 0.5,
        "overlap": 0.9,
        "drafted": 8,
        "accepted": 4,
    },
]


def test_a_comparison_counts_if_its_tokens_agree_and_drafts_were_accepted() -> None:
    figures = pearl_figures(ROWS)
    assert figures["pearl ratio_to_first"] == 1.5
    assert figures["pearl overlap"] == 0.9
    with pytest.raises(AssertionError, match="accepted none of 8"):
        pearl_figures([ROWS[0], ROWS[1] | {"accepted": 0}])
    with pytest.raises(AssertionError, match="pearl gives other tokens than autoregressive"):
        pearl_figures([ROWS[0], ROWS[1] | {"identical": False}])


def test_each_setting_names_the_devices_of_both_models() -> None:
    far = ON_THE_CPU.command(Path("model"), Path("prompts"), 8)
    assert {"models.device=cuda", "models.drafter_device=cpu"} <= set(far)
    near = ON_ONE_GPU.command(Path("model"), Path("prompts"), 8)
    assert near[near.index("--drafter") + 1].startswith("beside:")


@pytest.mark.slow
@pytest.mark.parametrize("setting", [ON_THE_CPU, ON_ONE_GPU], ids=["over gRPC", "beside"])
def test_the_comparison_runs_on_cpus_as_on_a_gpu(setting: Setting) -> None:
    shape = ModelShape(name="tiny", hidden=64, inner=96, layers=4, heads=4, kv=2, vocab=64, dim=16)
    on_cpus = replace(setting, device="cpu", drafter_device="cpu")
    figures = pearl(on_cpus, shape=shape, max_tokens=24)
    assert float(figures["pearl acceptance_rate"]) > 0.2
    plain = transformers(shape=shape, device="cpu", max_tokens=8)
    assert float(plain["tokens_per_s"]) > 0
