"""Recorded forwards compute what others do; padding changes no bit, and the start allocates all."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from parallel.batch import SequenceRows
from parallel.device_kernels.kernel_loader import load_kernels
from parallel.device_kernels.plain_kernels import PlainKernels
from parallel.device_kernels.step_kernels import StepKernels
from parallel.device_step.step_buckets import StepBuckets, StepLimits
from parallel.group import SoloGroup
from parallel.model.backend import ForwardOutputs
from parallel.model.device_backend import DeviceBackend
from runtime.rank.recorded_forwards import RecordedForwards, Recording
from tests.support.device_families import model_of
from tests.support.device_forwards import (
    DRAFTS,
    FORWARDS,
    KEPT,
    OTHER,
    PROMPTS,
    TEXT,
    cache_of,
    decoder_of,
)
from tests.support.kernel_device import DEVICE
from tests.support.ragged_strategies import sequence_rows
from tests.support.tiny_transformer import on_ranks, rows_of


class RepeatingRecorder:
    """Repeats the work itself; refuses after some recordings."""

    def __init__(self, refuses_from: int = 1000) -> None:
        self.is_replaying = False
        self.num_replays = 0
        self._left = refuses_from

    def record(self, work: Callable[[], ForwardOutputs]) -> Recording:
        if not self._left:
            raise RuntimeError("operation not permitted when stream is capturing")
        self._left -= 1
        first = work()
        assert first.drawn is not None
        logits, drawn = first.logits.clone(), first.drawn.clone()

        def replay() -> None:
            self.is_replaying = True
            again = work()
            assert again.drawn is not None
            logits.copy_(again.logits)
            drawn.words.copy_(again.drawn.words)
            self.is_replaying = False
            self.num_replays += 1

        return Recording(ForwardOutputs(logits, drawn), replay)

    def upload(self, source: Tensor, target: Tensor) -> None:
        target.copy_(source)

    def wait_for_upload(self) -> None:
        pass


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Names the operators that allocate outside of a replay."""

    def __init__(self, recorder: RepeatingRecorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.names: list[str] = []
        self._recorder = recorder

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        is_free = func.is_view or str(func).partition(".")[2].startswith("copy_.")
        if not self._recorder.is_replaying and not is_free:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def made(
    kernels: StepKernels,
    recorder: RepeatingRecorder | None = None,
    *,
    device: str = "cpu",
    num_layers: int = 2,
    most_rows: int = 16,
) -> RecordedForwards:
    model = model_of("gemma3_text", num_layers)
    backend = DeviceBackend(kernels, torch.float32)
    decoder = decoder_of(model, backend, source=model.source.on(device), device=device)
    limits = StepLimits(
        rows=most_rows,
        sequences=most_rows // 2,
        pages=10,
        nodes=7,
        kinds=len(decoder.layout.windows),
        tile_rows=16,
    )
    recorder = recorder or RepeatingRecorder()
    cache = cache_of(decoder, device=device)
    return RecordedForwards(decoder, backend, cache, StepBuckets(limits), recorder)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def logits_of(forwards: RecordedForwards) -> Tensor:
    return torch.cat([forwards.score(rows).logits for rows in FORWARDS])


def test_replays_compute_what_forwards_do_and_prefill_runs_without() -> None:
    recorder = RepeatingRecorder()
    recorded, plain = made(PlainKernels(), recorder), made(PlainKernels())
    report = recorded.start(SoloGroup(), budget_s=100)
    assert report.num_recorded == report.num_shapes == 10
    assert not report.reason
    found = logits_of(recorded)
    assert recorder.num_replays == 2, "the prompts are beyond the largest shape"
    torch.testing.assert_close(found, logits_of(plain), atol=1e-5, rtol=1e-5)


FEW = ([rows_of(OTHER[:2])], [rows_of(OTHER[2:3], start=2)])
"""Forwards with padding, of which an interpreter runs every row."""


@pytest.mark.parametrize(
    ("forwards", "most_rows"), [(FEW, 4), pytest.param(FORWARDS, 16, marks=pytest.mark.slow)]
)
def test_padding_changes_no_bit(forwards: Sequence[Sequence[SequenceRows]], most_rows: int) -> None:
    pytest.importorskip("triton")
    recorder = RepeatingRecorder(1)
    recorded = made(load_kernels(), recorder, device=DEVICE, num_layers=1, most_rows=most_rows)
    recorded.start(SoloGroup(), budget_s=100)
    plain = made(load_kernels(), device=DEVICE, num_layers=1, most_rows=most_rows)
    for rows in forwards:
        found, expected = recorded.score(rows), plain.score(rows)
        assert torch.equal(found.logits, expected.logits)
        assert found.drawn is not None
        assert expected.drawn is not None
        num_scored, num = len(expected.logits), len(rows)
        assert torch.equal(found.drawn.tokens[:num_scored], expected.drawn.tokens)
        assert torch.equal(found.drawn.verdicts[:num, :2], expected.drawn.verdicts[:, :2])
    assert recorder.num_replays == 2


def test_nothing_but_the_answer_is_allocated_after_the_start() -> None:
    recorder = RepeatingRecorder()
    forwards = made(PlainKernels(), recorder)
    forwards.start(SoloGroup(), budget_s=100)
    forwards.score(PROMPTS)
    with Allocations(recorder) as allocations:
        forwards.score(DRAFTS)
        forwards.score([rows_of(OTHER[-1:], slot=1, start=11)])
    assert allocations.names == ["aten.clone.default"] * 4, "logits and draws of two forwards"


def test_an_answer_outlives_the_next_replay() -> None:
    forwards = made(PlainKernels())
    forwards.start(SoloGroup(), budget_s=100)
    forwards.score(PROMPTS)
    row = [rows_of(OTHER[-1:], slot=1, start=9)]
    first = forwards.score(row).logits
    kept = first.clone()
    forwards.score([rows_of(TEXT[:1], slot=1, start=9)])
    assert torch.equal(first, kept)


@functools.cache
def all_recorded() -> RecordedForwards:
    """Return forwards with every shape recorded."""
    forwards = made(PlainKernels())
    with torch.inference_mode():
        forwards.start(SoloGroup(), budget_s=100)
    return forwards


@settings(max_examples=40)
@given(st.lists(sequence_rows(30, max_rows=8, max_nodes=6), min_size=1, max_size=8))
def test_every_step_within_the_limits_has_a_recording(rows: list[SequenceRows]) -> None:
    num_rows = sum(len(row.token_ids) for row in rows)
    shape = all_recorded().shape_of(rows)
    assert (shape is not None) == (num_rows <= 16)


def test_steps_take_a_larger_recording_when_the_time_was_spent() -> None:
    times = iter([0.0, 1.0, 2.0, 6.0, 7.0])
    recorder = RepeatingRecorder()
    forwards = made(PlainKernels(), recorder)
    report = forwards.start(SoloGroup(), budget_s=5, now=lambda: next(times))
    assert (report.num_recorded, report.reason) == (2, "5 s are spent")
    shape = forwards.shape_of(KEPT)
    assert shape is not None
    assert (shape.rows, shape.pages) == (16, 8)
    torch.testing.assert_close(
        logits_of(forwards), logits_of(made(PlainKernels())), atol=1e-5, rtol=0
    )
    assert recorder.num_replays == 2


def test_a_device_that_cannot_record_says_why_and_computes_all_the_same() -> None:
    forwards = made(PlainKernels(), RepeatingRecorder(0))
    report = forwards.start(SoloGroup(), budget_s=100)
    assert report.num_recorded == 0
    assert report.reason == "RuntimeError: operation not permitted when stream is capturing"
    assert torch.equal(logits_of(forwards), logits_of(made(PlainKernels())))


def test_rank_0_decides_when_recording_ends() -> None:
    def recorded(group: Any) -> int:
        late = group.rank == 1
        times = iter([0.0, 9.0 if late else 1.0, 9.0, 9.0])
        return made(PlainKernels()).start(group, budget_s=5, now=lambda: next(times)).num_recorded

    assert on_ranks(2, recorded) == [1, 1]
