"""Forwards whose launches are recorded before the first request, and replayed (CUDA graphs).

A step of few rows launches many small kernels; replayed, they cost the host one call. A recording
has a fixed shape: a step takes the smallest one that covers it, and its other rows see and store
nothing. Prefill chunks beyond the largest shape, and rows with adapters, run without a recording.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from parallel.batch import SequenceRows
from parallel.device_step.step_buckets import StepBuckets, StepLimits
from parallel.device_step.step_packing import SequenceStep, needed_shape, pack
from parallel.device_step.step_shape import StepArrays, StepShape, device_arrays
from parallel.group import Group
from parallel.model.backend import ForwardOutputs
from parallel.model.cache import PagedCache
from parallel.model.device_backend import DeviceBackend, grown, host_words
from parallel.model.transformer import Decoder

_LOG = logging.getLogger("paceline.rank")


_BUDGET_S = 20.0
_MAX_ROWS = 128
_MAX_SEQUENCES = 64
_MAX_DRAFT = 15
"""Draft tokens of a sequence; steps with longer drafts run without a recording."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Work that can be repeated on the same memory."""

    outputs: ForwardOutputs
    """Where each replay leaves its results."""
    replay: Callable[[], None]


class ForwardRecorder(Protocol):
    """Records work on a device."""

    def record(self, work: Callable[[], ForwardOutputs]) -> Recording:
        """Run work, so that all it needs is loaded, and record it; RuntimeError if it cannot."""
        ...

    def upload(self, source: Tensor, target: Tensor) -> None:
        """Copy from the host without a wait."""
        ...

    def wait_for_upload(self) -> None:
        """Wait until the source of the last upload may be overwritten."""
        ...


class CudaRecorder:
    """Records CUDA graphs, whose memory is one pool."""

    def __init__(self) -> None:
        self._pool: object = None
        self._uploaded = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's

    def record(self, work: Callable[[], ForwardOutputs]) -> Recording:
        """Run the work on a stream of its own, then capture it."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Threads that run a model beside this one may allocate meanwhile.
        mode = "thread_local"
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode=mode):  # type: ignore[arg-type]  # a handle
            outputs = work()
        self._pool = self._pool or graph.pool()
        return Recording(outputs, graph.replay)

    def upload(self, source: Tensor, target: Tensor) -> None:
        """Copy from pinned memory."""
        target.copy_(source, non_blocking=True)
        self._uploaded.record()

    def wait_for_upload(self) -> None:
        """Wait for the event behind the last upload."""
        self._uploaded.synchronize()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingReport:
    """What was recorded at the start."""

    num_recorded: int
    num_shapes: int
    seconds: float
    reason: str = ""
    """Why shapes are missing; empty if none is."""


class RecordedForwards:
    """Runs forwards of a decoder, by recordings where one fits."""

    def __init__(
        self,
        decoder: Decoder,
        backend: DeviceBackend,
        cache: PagedCache,
        buckets: StepBuckets,
        recorder: ForwardRecorder,
    ) -> None:
        """Allocate the memory that all shapes share; `start` records."""
        self._decoder, self._backend, self._cache = decoder, backend, cache
        self._buckets, self._recorder = buckets, recorder
        self._rules = backend.rules(cache, decoder.layout)
        num_words = max(shape.num_words for shape in buckets.shapes)
        self._host = host_words(num_words)
        device = cache.storage.device
        self._buffer = torch.empty(num_words, dtype=torch.int32, device=device)
        self._recordings: dict[StepShape, Recording] = {}

    def start(
        self, group: Group, *, budget_s: float, now: Callable[[], float] = time.monotonic
    ) -> RecordingReport:
        """Record the shapes, the largest first, until the time is spent; call on all ranks.

        Rank 0 decides when to stop, because ranks record their exchanges together.
        """
        begin, reason = now(), ""
        shapes = self._buckets.shapes
        for shape in shapes:
            if not _goes_on(group, now() - begin < budget_s):
                reason = f"{budget_s:g} s are spent"
                break
            try:
                self._recordings[shape] = self._record(shape)
            except RuntimeError as error:
                reason = f"{type(error).__name__}: {error}"
                break
        report = RecordingReport(
            num_recorded=len(self._recordings),
            num_shapes=len(shapes),
            seconds=now() - begin,
            reason=reason,
        )
        _LOG.log(logging.WARNING if reason else logging.INFO, "CUDA graphs: %s", report)
        return report

    def score(self, rows: Sequence[SequenceRows], *, width: int = 1) -> ForwardOutputs:
        """Append the rows to their sequences and compute as `Decoder.score`."""
        shape = self.shape_of(rows) if width == 1 else None
        if shape is None:
            return self._decoder.score(rows, self._cache, width=width)
        self._recorder.wait_for_upload()
        words = self._host.words[: shape.num_words]
        pack(grown(rows, self._cache), shape, self._rules, words)
        self._upload(shape)
        if any(row.moves for row in rows):
            self._backend.move(self._arrays(shape), self._cache)
        recording = self._recordings[shape]
        recording.replay()
        # The next replay writes into the same memory, and a drafter keeps its rows for a round.
        return _first(recording.outputs, sum(row.num_logits for row in rows))

    def shape_of(self, rows: Sequence[SequenceRows]) -> StepShape | None:
        """Return the smallest recorded shape that covers the rows; None if they run without."""
        if any(row.adapter for row in rows):
            return None
        steps = [SequenceStep(rows=row, pages=()) for row in rows]
        needed = needed_shape(steps, self._rules)
        fitting = [shape for shape in self._recordings if shape.covers(needed)]
        return min(fitting, key=lambda shape: (shape.rows, shape.pages), default=None)

    def _record(self, shape: StepShape) -> Recording:
        """Record a step of padding rows alone."""
        pack([], shape, self._rules, self._host.words[: shape.num_words])
        self._upload(shape)
        self._recorder.wait_for_upload()
        arrays = self._arrays(shape)

        def work() -> ForwardOutputs:
            inputs = self._backend.inputs(
                arrays, shape, self._cache, self._decoder.layout, shape.scored
            )
            return self._decoder.outputs(inputs)

        return self._recorder.record(work)

    def _upload(self, shape: StepShape) -> None:
        here = slice(shape.num_words)
        self._recorder.upload(self._host.tensor[here], self._buffer[here])

    def _arrays(self, shape: StepShape) -> StepArrays[Tensor]:
        return device_arrays(self._buffer[: shape.num_words], shape)


def record_forwards(decoder: Decoder, cache: PagedCache, group: Group) -> RecordedForwards | None:
    """Record the decode steps of a model on a GPU; None if its backend has no kernels for it."""
    backend = decoder.backend
    if not isinstance(backend, DeviceBackend):
        return None
    rules = backend.rules(cache, decoder.layout)
    longest = -(-decoder.config.max_positions // cache.page_size)
    limits = StepLimits(
        rows=_MAX_ROWS,
        sequences=_MAX_SEQUENCES,
        pages=min(cache.num_pages, longest),
        nodes=_MAX_DRAFT,
        kinds=len(rules.windows),
        tile_rows=rules.tile_rows,
    )
    forwards = RecordedForwards(decoder, backend, cache, StepBuckets(limits), CudaRecorder())
    with torch.inference_mode():
        forwards.start(group, budget_s=_BUDGET_S)
    return forwards


def _first(outputs: ForwardOutputs, num_scored: int) -> ForwardOutputs:
    """Return a copy of the outputs of the first rows."""
    drawn = outputs.drawn
    return ForwardOutputs(
        outputs.logits[:num_scored].clone(), None if drawn is None else drawn.clone()
    )


def _goes_on(group: Group, here: bool) -> bool:
    """Return rank 0's decision."""
    if group.size == 1:
        return here
    return group.broadcast_bytes(bytes([here]) if group.rank == 0 else None) == b"\x01"
