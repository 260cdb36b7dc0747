"""Times of one decode step of a model and of its parts, in this process."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from parallel.batch import SequenceRows
from parallel.decoding.sampling import num_candidates
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import DraftTree, RngKey, SamplingParams, VerifierKind
from parallel.decoding.verify import verifier_of
from parallel.group import SoloGroup
from parallel.kernels.kernel_clocks import KernelClocks, KernelPart
from parallel.kernels.native_library import native_library
from runtime.clock import Clock
from runtime.errors import ConfigError
from runtime.hosts.model_building import build_ledger, build_shard
from runtime.hosts.rank_settings import ModelSettings
from runtime.hosts.torch_threads import use_huge_pages, use_threads
from runtime.rank.shard import DecoderShard, ShardRunner
from runtime.rank.span_clock import OperatorSpans, SpanClock, StepPart

_SLOT = 1
_NATIVE_PARTS = {
    KernelPart.PRODUCTS: StepPart.PRODUCTS,
    KernelPart.ATTENTION: StepPart.ATTENTION,
    KernelPart.BETWEEN: StepPart.ELEMENTWISE,
    KernelPart.HEAD: StepPart.HEAD,
}
_KEY = RngKey(seed=0, request=0)
_GREEDY = SamplingParams()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Medians over the repeats of a step."""

    num_rows: int
    """Tokens that the step reads: the last one committed, and drafts that are all accepted."""
    total_s: float
    spread_s: tuple[float, float]
    """The fastest and the slowest step."""
    parts_s: dict[StepPart, float]
    """Of all parts; they add up to about `total_s`."""


class DecodeStepBench:
    """A target with one sequence, whose next tokens are read again and again."""

    def __init__(
        self, settings: ModelSettings, *, context: int, most_rows: int, clock: Clock
    ) -> None:
        """Load the model and read a context.

        Args:
            settings: the target; its cache holds the context and the rows.
            context: tokens before the step.
            most_rows: the largest number of rows that is measured.
            clock: the time.

        Raises:
            ConfigError: the model cannot be loaded, or is not one that steps can be timed of.
        """
        use_huge_pages()
        use_threads(settings.num_threads)
        group = SoloGroup()
        shard = build_shard(settings, group)
        if not isinstance(shard, DecoderShard):
            raise ConfigError("`virtual` devices have no parts: name a model as `target`")
        self._head_size = shard.head.size
        self._runner = ShardRunner(shard, group)
        self._ledger = build_ledger(settings)
        self._clock = clock
        self._context = context
        self.num_accepted = 0
        """Drafts that the last step accepted: all of its rows but the first."""
        self._ledger.open(_SLOT, context + most_rows)
        prompt = tuple(i % shard.vocab_size for i in range(1, context + 1))
        before = SequenceRows(slot=_SLOT, start=0, token_ids=prompt, num_logits=1)
        (scores,) = self._runner.execute(self._ledger.plan((before,), (1,)))
        self._tokens = self._follow(scores, most_rows)

    def measure(self, sizes: Sequence[int], *, repeats: int) -> list[StepTimes]:
        """Time steps of several numbers of rows, in turns."""
        totals: dict[int, list[float]] = {size: [] for size in sizes}
        parts: dict[int, list[dict[StepPart, float]]] = {size: [] for size in sizes}
        for size in sizes:
            self._step(size, SpanClock(self._clock))  # a size's first forward prepares kernels
        for _ in range(repeats):
            for size in sizes:
                start_s = self._clock.now_s()
                self._step(size, None)
                totals[size].append(self._clock.now_s() - start_s)
                spans = SpanClock(self._clock)
                self._step(size, spans)
                parts[size].append(spans.seconds)
        return [_times(size, totals[size], parts[size]) for size in sizes]

    def _follow(self, scores: ScoreRow, count: int) -> tuple[int, ...]:
        """Return the greedy tokens after the context, so that drafts of them are accepted."""
        tokens: list[int] = []
        while True:
            tokens.append(scores.best(1)[0])
            if len(tokens) == count:
                return tuple(tokens)
            start = self._context + len(tokens) - 1
            row = SequenceRows(slot=_SLOT, start=start, token_ids=(tokens[-1],), num_logits=1)
            (scores,) = self._runner.execute(self._ledger.plan((row,), (1,)))

    def _step(self, num_rows: int, spans: SpanClock | None) -> None:
        """Read rows after the context and verify them; the clock gets the parts' times."""
        operators: AbstractContextManager[object] = nullcontext()
        span = _untimed if spans is None else spans.span
        if spans is not None:
            operators = OperatorSpans(spans, head_size=self._head_size)
        with span(StepPart.PYTHON):
            with span(StepPart.PLAN):
                tokens = self._tokens[:num_rows]
                row = SequenceRows(
                    slot=_SLOT, start=self._context, token_ids=tokens, num_logits=num_rows
                )
                plan = self._ledger.plan((row,), (num_candidates(_GREEDY),) * num_rows)
            with operators, _native_calls(spans):
                scores = self._runner.execute(plan)
            with span(StepPart.VERIFY):
                draft = DraftTree.chain(tokens[1:])
                verify = verifier_of(VerifierKind.MATCH).verify
                verdict = verify(draft, scores, _GREEDY, _KEY, 0, ())
        self.num_accepted = verdict.num_accepted


@contextmanager
def _native_calls(spans: SpanClock | None) -> Iterator[None]:
    """Count the parts of native calls in this context, if there are any."""
    library = native_library()
    if spans is None or library is None:
        yield
        return
    with KernelClocks(library) as clocks:
        yield
    for part, seconds in clocks.seconds.items():
        spans.add(_NATIVE_PARTS[part], seconds)


def _untimed(_: StepPart) -> AbstractContextManager[None]:
    return nullcontext()


def _times(
    num_rows: int, totals: Sequence[float], parts: Sequence[Mapping[StepPart, float]]
) -> StepTimes:
    """Return the medians; what the parts of a whole step leave is Python's.

    The profiled step is slower between its operators than the whole one, so only its named parts
    count.
    """
    total_s = statistics.median(totals)
    parts_s: dict[StepPart, float] = {
        part: statistics.median(one.get(part, 0.0) for one in parts)
        for part in StepPart
        if part is not StepPart.PYTHON
    }
    parts_s[StepPart.PYTHON] = total_s - sum(parts_s.values())
    return StepTimes(
        num_rows=num_rows,
        total_s=total_s,
        spread_s=(min(totals), max(totals)),
        parts_s=parts_s,
    )
