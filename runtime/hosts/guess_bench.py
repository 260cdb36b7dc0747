"""How soon a drafter's guesses hold the target's tokens, on prompts and in this process.

With the target's own noise, its output does not depend on drafts: it is made once, and then the
drafter drafts for the outcomes of each verdict as it does in a deployment.
"""

from dataclasses import dataclass, field

import numpy as np

from parallel.batch import SequenceRows
from parallel.decoding.rng import Floats, request_key
from parallel.decoding.sampling import sample
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import RngKey, SamplingParams
from parallel.decoding.verdict_outcomes import VerdictOutcome
from parallel.drafting.guess_orders import guess_chances
from parallel.group import SoloGroup
from parallel.messages import DraftItem, DraftOpen, DraftRequest
from runtime.drafters.model_drafting import ModelDrafter
from runtime.hosts.model_building import build_drafter, build_ledger, build_shard
from runtime.hosts.rank_settings import ModelSettings
from runtime.hosts.torch_threads import use_threads
from runtime.rank.shard import ShardRunner

NUM_GUESSES = 6
"""Guesses of one token."""
NUM_OUTCOMES = 32
"""Outcomes of one verdict."""
_READING = 0
"""The slot of texts that are read; drafted requests have other numbers."""


def _zeros(num: int) -> Floats:
    return np.zeros(num)


@dataclass(slots=True, eq=False, kw_only=True)
class GuessFigures:
    """Sums over the places and the verdicts of some outputs."""

    num_places: int = 0
    perturbed: Floats = field(default_factory=lambda: _zeros(NUM_GUESSES))
    """Places whose token is among the first 1, 2, ... guesses, by each order."""
    by_probability: Floats = field(default_factory=lambda: _zeros(NUM_GUESSES))
    without_replacement: Floats = field(default_factory=lambda: _zeros(NUM_GUESSES))
    num_verdicts: int = 0
    hits: Floats = field(default_factory=lambda: _zeros(NUM_OUTCOMES))
    """Verdicts that are among the 1, 2, ... likeliest outcomes."""
    num_rejections: int = 0
    """Verdicts that reject a draft token."""
    recovered: Floats = field(default_factory=lambda: _zeros(NUM_OUTCOMES))
    """Those among the likeliest outcomes."""

    def add(self, other: "GuessFigures") -> None:
        """Add the sums of other outputs."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_json(self) -> dict[str, object]:
        """Return the sums as numbers and lists."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in found.items()}

    @classmethod
    def from_json(cls, given: dict[str, object]) -> "GuessFigures":
        """Return the sums that `to_json` wrote."""
        found = {n: np.array(v) if isinstance(v, list) else v for n, v in given.items()}
        return cls(**found)  # type: ignore[arg-type]  # what to_json wrote


class GuessBench:
    """A target and a drafter with a model, side by side in this process."""

    def __init__(self, target: ModelSettings, drafter: ModelSettings, *, draft_length: int) -> None:
        """Load both.

        Args:
            target: its cache holds one prompt with its output.
            drafter: likewise, and a draft for each of `NUM_OUTCOMES`.
            draft_length: tokens drafted after an outcome, the one that names it included.

        Raises:
            ConfigError: a model cannot be loaded.
        """
        use_threads(target.num_threads)
        group = SoloGroup()
        self._target = ShardRunner(build_shard(target, group), group)
        self._drafter = ShardRunner(build_shard(drafter, group), group)
        self._target_ledger, self._drafter_ledger = build_ledger(target), build_ledger(drafter)
        self._settings = drafter
        self._draft_length = draft_length
        self._drafting: dict[SamplingParams, ModelDrafter] = {}
        self._num_requests = 0

    def measure(
        self, prompt: tuple[int, ...], sampling: SamplingParams, num_tokens: int
    ) -> GuessFigures:
        """Return the figures of one output of a prompt."""
        key = RngKey(seed=sampling.seed, request=request_key(prompt, sample_index=0))
        rows, output = self._decode(prompt, sampling, key, num_tokens)
        text = prompt + output
        found = GuessFigures()
        for position, (target, drafter) in enumerate(
            zip(rows, self._read(text, len(prompt)), strict=True)
        ):
            chances = guess_chances(target, drafter, sampling, key, position, num=NUM_GUESSES)
            found.num_places += 1
            found.perturbed += chances.perturbed
            found.by_probability += chances.by_probability
            found.without_replacement += chances.without_replacement
        self._count_verdicts(found, text, len(prompt), sampling, key)
        return found

    def _decode(
        self, prompt: tuple[int, ...], sampling: SamplingParams, key: RngKey, num_tokens: int
    ) -> tuple[list[ScoreRow], tuple[int, ...]]:
        """Return the target's rows and its tokens."""
        rows, tokens = list[ScoreRow](), list[int]()
        self._target_ledger.open(_READING, len(prompt) + num_tokens)
        unread, start = prompt, 0
        while len(tokens) < num_tokens:
            read = SequenceRows(slot=_READING, start=start, token_ids=unread, num_logits=1)
            rows += self._target.execute(self._target_ledger.plan([read], [None]))
            tokens.append(sample(rows[-1], sampling, key, len(tokens)))
            start, unread = start + len(unread), (tokens[-1],)
        self._target_ledger.close(_READING)
        return rows, tuple(tokens)

    def _read(self, text: tuple[int, ...], num_prompt: int) -> list[ScoreRow]:
        """Return the drafter's rows before each token of an output."""
        num = len(text) - num_prompt
        self._drafter_ledger.open(_READING, len(text))
        read = SequenceRows(slot=_READING, start=0, token_ids=text[:-1], num_logits=num)
        rows = self._drafter.execute(self._drafter_ledger.plan([read], [None] * num))
        self._drafter_ledger.close(_READING)
        self._drafter.execute(self._drafter_ledger.plan())
        return rows

    def _count_verdicts(
        self,
        found: GuessFigures,
        text: tuple[int, ...],
        num_prompt: int,
        sampling: SamplingParams,
        key: RngKey,
    ) -> None:
        """Draft for the outcomes of each verdict on the way through a text, and count them."""
        if sampling not in self._drafting:
            self._drafting[sampling] = build_drafter(self._drafter, self._settings)
        drafter = self._drafting[sampling]
        self._num_requests += 1
        request, length = self._num_requests, self._draft_length
        opened: tuple[DraftOpen, ...] = (
            DraftOpen(
                request=request,
                key=key,
                sampling=sampling,
                num_prompt=num_prompt,
                capacity=len(text) + length,
                send_probs=False,
                vocab_size=self._target.vocab_size,
            ),
        )
        known, in_flight = tuple[int, ...](), tuple[int, ...]()
        num_committed = num_prompt
        while num_committed + length < len(text):
            wanted = text[:num_committed] + in_flight
            keep = _num_alike(known, wanted)
            item = DraftItem(
                request=request,
                epoch=0,
                keep=keep,
                tail=wanted[keep:],
                num_draft=length,
                stream=True,
                num_in_flight=len(in_flight),
                num_outcomes=NUM_OUTCOMES,
            )
            drafts = _drafts(drafter, DraftRequest(round=1, opened=opened, items=(item,)))
            opened, known = (), wanted
            num_kept = _num_alike(in_flight, text[num_committed:])
            actual = VerdictOutcome(num_kept, text[num_committed + num_kept])
            in_flight = drafts.get(actual, ())
            _count(found, list(drafts), actual)
            num_committed += num_kept + 1
        list(drafter.answer(DraftRequest(round=1, closed=(request,))))
        drafter.keep_alive()


def _drafts(drafter: ModelDrafter, request: DraftRequest) -> dict[VerdictOutcome, tuple[int, ...]]:
    """Return the draft after each outcome, likeliest first."""
    own, others = list[int](), dict[VerdictOutcome, tuple[int, ...]]()
    for part in drafter.answer(request):
        own += part.items[0].token_ids
        for each in part.items[0].outcomes:
            others[each.outcome] = others.get(each.outcome, ()) + each.token_ids
    first = VerdictOutcome(request.items[0].num_in_flight, own[0])
    return {first: tuple(own[1:])} | others


def _count(found: GuessFigures, outcomes: list[VerdictOutcome], actual: VerdictOutcome) -> None:
    is_rejection = actual != outcomes[0]  # the first one keeps all drafts, and the next one's first
    found.num_verdicts += 1
    found.num_rejections += is_rejection
    if actual in outcomes:
        found.hits[outcomes.index(actual) :] += 1
        if is_rejection:
            found.recovered[outcomes.index(actual) :] += 1


def _num_alike(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Return how many first tokens are the same."""
    num = 0
    while num < min(len(first), len(second)) and first[num] == second[num]:
        num += 1
    return num
