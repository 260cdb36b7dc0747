"""Times of decode steps whose rows have adapters, against steps without, in this process."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch

from parallel.batch import SequenceRows
from parallel.group import SoloGroup
from parallel.model.low_rank import PART_NAMES, AdaptedPart, Adapter, LowRank, part_shapes
from parallel.model.model_config import ModelConfig
from runtime.clock import Clock
from runtime.errors import ConfigError
from runtime.hosts.model_building import build_ledger, build_shard
from runtime.hosts.rank_settings import ModelSettings
from runtime.hosts.torch_threads import use_huge_pages, use_threads
from runtime.rank.shard import DecoderShard, ShardRunner

NUM_ADAPTERS = 3
_NAMES = tuple(f"adapter {number}" for number in range(NUM_ADAPTERS))


class RowAdapters(StrEnum):
    """Which adapters the sequences of a step have."""

    NONE_HELD = "base, no adapter loaded"
    BASE = "base"
    ONE = "one adapter"
    THREE = "three adapters"
    MIXED = "three adapters and base"

    def names(self, num_sequences: int) -> list[str]:
        """Return the adapter of each sequence; "" is the model alone."""
        match self:
            case RowAdapters.ONE:
                turn: tuple[str, ...] = _NAMES[:1]
            case RowAdapters.THREE:
                turn = _NAMES
            case RowAdapters.MIXED:
                turn = (*_NAMES, "")
            case _:
                turn = ("",)
        return [turn[number % len(turn)] for number in range(num_sequences)]

    def differs(self, num_sequences: int) -> bool:
        """Return whether so many sequences show all that the name says."""
        least = {RowAdapters.THREE: NUM_ADAPTERS, RowAdapters.MIXED: NUM_ADAPTERS + 1}
        return num_sequences >= least.get(self, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedStepTimes:
    """Medians over the repeats of a step."""

    rows: RowAdapters
    step_s: float
    thread_s: float
    """Computing time of the calling thread alone."""
    ratio: float
    """Of the steps to the base's step beside each of them."""
    thread_ratio: float
    """The same of the computing times, which other processes change less."""


@dataclass(frozen=True, slots=True)
class _Step:
    total_s: float
    thread_s: float


@dataclass(frozen=True, slots=True)
class _Pair:
    step: _Step
    base: _Step


class AdapterBench:
    """A target with several sequences, whose next tokens are read again and again."""

    def __init__(
        self,
        settings: ModelSettings,
        config: ModelConfig,
        *,
        num_sequences: int,
        context: int,
        num_tokens: int,
        rank: int,
        parts: Sequence[AdaptedPart],
        clock: Clock,
    ) -> None:
        """Load the model, make random adapters, and read the contexts.

        Args:
            settings: the target; its cache holds the contexts and the tokens.
            config: the target's.
            num_sequences: sequences in a step.
            context: tokens of each before the step.
            num_tokens: tokens of each that a step reads.
            rank: of the adapters.
            parts: the products that they adapt.
            clock: the time.

        Raises:
            ConfigError: the model cannot be loaded.
        """
        use_huge_pages()
        use_threads(settings.num_threads)
        group = SoloGroup()
        shard = build_shard(settings, group)
        if not isinstance(shard, DecoderShard):
            raise ConfigError("`virtual` devices have no weights that an adapter could add to")
        self._shard = shard
        self._runner = ShardRunner(shard, group)
        self._ledger = build_ledger(settings)
        self._clock = clock
        self._context = context
        self._num_sequences = num_sequences
        self._tokens = tuple(range(1, num_tokens + 1))
        self._adapters = [_random_adapter(name, config, rank, parts) for name in _NAMES]
        self._hold()
        prompt = tuple(i % shard.vocab_size for i in range(1, context + 1))
        for slot in range(num_sequences):
            self._ledger.open(slot, context + num_tokens)
            rows = SequenceRows(slot=slot, start=0, token_ids=prompt, num_logits=1)
            self._runner.execute(self._ledger.plan((rows,), (1,)))

    def measure(self, *, repeats: int) -> list[AdaptedStepTimes]:
        """Time the steps of all kinds in turns, each beside one of the base."""
        kinds = [kind for kind in RowAdapters if kind.differs(self._num_sequences)]
        found: dict[RowAdapters, list[_Pair]] = {kind: [] for kind in kinds}
        for repeat in range(repeats + 1):
            for kind in kinds:
                pair = self._pair(kind, base_first=repeat % 2 == 0)
                if repeat:  # the first one prepares kernels
                    found[kind].append(pair)
        return [_times(kind, pairs) for kind, pairs in found.items()]

    def _pair(self, kind: RowAdapters, *, base_first: bool) -> "_Pair":
        """Time a step, and one of the base just before or after it."""
        if base_first:
            base = self._timed(RowAdapters.BASE)
        if kind is RowAdapters.NONE_HELD:
            self._drop()
        step = self._timed(kind)
        if kind is RowAdapters.NONE_HELD:
            self._hold()
            self._timed(RowAdapters.BASE)  # brings the weights back to the processor's caches
        if not base_first:
            base = self._timed(RowAdapters.BASE)
        return _Pair(step, base)

    def _timed(self, kind: RowAdapters) -> "_Step":
        rows = tuple(self._rows(kind))
        candidates = (1,) * (len(rows) * len(self._tokens))
        start_s, start_thread_s = self._clock.now_s(), time.thread_time()
        self._runner.execute(self._ledger.plan(rows, candidates))
        return _Step(self._clock.now_s() - start_s, time.thread_time() - start_thread_s)

    def _rows(self, kind: RowAdapters) -> Iterator[SequenceRows]:
        for slot, name in enumerate(kind.names(self._num_sequences)):
            yield SequenceRows(
                slot=slot,
                start=self._context,
                token_ids=self._tokens,
                num_logits=len(self._tokens),
                adapter=name,
            )

    def _hold(self) -> None:
        for adapter in self._adapters:
            self._shard.add_adapter(adapter)

    def _drop(self) -> None:
        for name in _NAMES:
            self._shard.remove_adapter(name)


def _times(kind: RowAdapters, pairs: Sequence[_Pair]) -> AdaptedStepTimes:
    return AdaptedStepTimes(
        rows=kind,
        step_s=statistics.median(pair.step.total_s for pair in pairs),
        thread_s=statistics.median(pair.step.thread_s for pair in pairs),
        ratio=statistics.median(pair.step.total_s / pair.base.total_s for pair in pairs),
        thread_ratio=statistics.median(pair.step.thread_s / pair.base.thread_s for pair in pairs),
    )


def parts_of(names: Sequence[str]) -> list[AdaptedPart]:
    """Return the products that layers' names mean, as `q_proj`.

    Raises:
        ConfigError: there is no such layer; lists those that there are.
    """
    known = {name.rpartition(".")[2]: part for part, name in PART_NAMES.items()}
    for name in names:
        if name not in known:
            raise ConfigError(f"`targets` has {name!r}: choose among {', '.join(known)}")
    return [known[name] for name in names]


def _random_adapter(
    name: str, config: ModelConfig, rank: int, parts: Sequence[AdaptedPart]
) -> Adapter:
    shapes = part_shapes(config)
    random = torch.Generator().manual_seed(_NAMES.index(name))

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random) * 1e-3

    layer = {}
    for part in parts:
        outputs, inputs = shapes[part]
        layer[part] = LowRank(drawn(rank, inputs), drawn(outputs, rank))
    return Adapter(name=name, layers=(layer,) * config.num_layers)
