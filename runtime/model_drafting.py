"""A drafter with a model on a group of its own, which may also look up what it drafts."""

import logging
from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parallel.decoding.sampling import distribution, num_candidates
from parallel.decoding.types import SamplingParams, ScoreRow, SparseProbs
from parallel.decoding.verify import draft_token, draft_token_with_law
from parallel.drafting.tree import Guess, Source, advanced, best_guess
from parallel.messages import DraftItem, DraftOpen, DraftRequest, ProposalItem
from parallel.model.batch import SequenceRows
from runtime.drafting import DraftPart
from runtime.ledger import SlotLedger
from runtime.lookup_drafting import Lookups, LookupSettings, LookupText, tree_proposal
from runtime.shard import ShardRunner

_LOG = logging.getLogger("paceline.drafter")
_SURE_MATCH = 3  # tokens that were the same from which a copy beats a small model
_PREFILL_CHUNK = 512  # bounds the activations of one forward
_MAX_STEPS = 8  # of the model in one tree
_ALTERNATIVES = 3  # tokens of the model after each path
_CANDIDATES = 16  # that stand for the whole vocabulary where only the best are gathered
_LEVELS = 10  # by which the model's own probabilities are told apart
_DRAWN_PRIOR = 0.5
NO_LOOKUPS = LookupSettings(ngram=False, recycle=False)


class ModelGuesses:
    """What the model said after some paths of a tree, as a source of it."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], list[Guess]] = {}

    def root(self) -> tuple[int, ...]:
        """Return the empty path."""
        return ()

    def guesses(self, state: tuple[int, ...]) -> list[Guess]:
        """Return the model's best tokens where it was asked."""
        return self.known.get(state, [])

    def advance(self, state: tuple[int, ...], token: int) -> tuple[int, ...]:
        """Return the longer path."""
        return (*state, token)


@dataclass(slots=True)
class _Trunk:
    """The path along which the model is asked, for one tree."""

    item: DraftItem
    model: ModelGuesses
    sources: list[Source]
    states: list[Any]
    path: tuple[int, ...] = ()
    gain: float = 1.0

    @property
    def wants_more(self) -> bool:
        """Whether one more step of the model is worth its time."""
        steps = min(self.item.num_draft, _MAX_STEPS)
        return self.gain >= self.item.least_gain and len(self.path) < steps


@dataclass(slots=True)
class _Sequence:
    opened: DraftOpen
    token_ids: list[int] = field(default_factory=list)
    num_cached: int = 0
    draft: list[int] = field(default_factory=list)
    laws: list[SparseProbs] = field(default_factory=list)
    text: LookupText = field(default_factory=LookupText)

    def follow(self, item: DraftItem, lookups: Lookups) -> None:
        """Roll back to what stays valid and read what follows."""
        self.text.index.append(self.token_ids[len(self.text.index) : item.keep])
        lookups.follow(self.text, item)
        self.token_ids[item.keep :] = item.tail
        self.num_cached = min(self.num_cached, item.keep, len(self.token_ids) - 1)
        self.draft, self.laws = [], []

    def copy(self, num_draft: int) -> bool:
        """Copy the draft from earlier text; False where no long stretch of it is the same."""
        match = self.text.index.match(num_draft)
        if match.length < _SURE_MATCH:
            return False
        self.draft = list(match.token_ids)
        self.token_ids += match.token_ids
        return True


class ModelDrafter:
    """Drafts with a model on the drafter group; all items advance one token a forward.

    Where a tree may be drafted, the model's tokens and what can be looked up grow one tree: the
    model is asked along the likeliest path, as far as that is worth its time, and all that is known
    beside it is free. Chains are the model's, or a copy where the request's own text has said the
    same before: which of the two depends on committed and drafted tokens alone, so each draft keeps
    its kind, and a copy is a point where a model's token has its law.
    """

    def __init__(
        self,
        runner: ShardRunner,
        ledger: SlotLedger,
        *,
        lookups: LookupSettings = NO_LOOKUPS,
        grows_trees: bool = False,
    ) -> None:
        """Draft with the model of `runner`.

        Args:
            runner: rank 0 of the drafter group.
            ledger: the account of its cache.
            lookups: what it may look up.
            grows_trees: whether it offers to draft trees.

        Raises:
            ConfigError: the store of texts cannot be read.
        """
        self.grows_trees = grows_trees
        self._runner = runner
        self._ledger = ledger
        self._lookups = Lookups(lookups)
        self._sequences: dict[int, _Sequence] = {}
        self._refused: set[int] = set()
        self._num_tree_steps = 0

    @property
    def num_successors(self) -> int:
        """How many best tokens it wants to hear of after each one the target scored."""
        return self._lookups.num_successors

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:
        """Draft for every item at once, one ragged forward for each draft position."""
        for number in request.closed:
            self._close(number)
        for opened in request.opened:
            self._close(opened.request)
            self._open(opened)
        known = [item for item in request.items if self._knows(item)]
        for item in known:
            self._sequences[item.request].follow(item, self._lookups)
        self._read([item for item in known if item.num_draft == 0], leave=0)
        wanting = [item for item in known if item.num_draft > 0]
        trees = {item.request: item for item in wanting if item.tree}
        grown = self._grow(list(trees.values()))
        chains = [item for item in wanting if item.request not in trees]
        drafting = [item for item in chains if not self._copied(item)]
        self._read(drafting, leave=_PREFILL_CHUNK)
        num_steps = max((item.num_draft for item in drafting), default=0)
        streaming = [item for item in drafting if item.stream and num_steps > 1]
        for index in range(num_steps):
            self._advance([item for item in drafting if item.num_draft > index])
            if index == 0 and streaming:
                yield DraftPart(tuple(self._proposal(item, 0) for item in streaming), partial=True)
        items = [
            grown.get(item.request) or self._proposal(item, int(item in streaming))
            for item in request.items
            if item.num_draft > 0
        ]
        yield DraftPart(tuple(items), num_steps=num_steps + self._num_tree_steps)

    def keep_alive(self) -> None:
        """Broadcast an empty plan."""
        self._runner.execute(self._ledger.plan())

    def close(self) -> None:
        """Broadcast the last plan."""
        self._runner.execute(self._ledger.plan(stop=True))

    def _open(self, opened: DraftOpen) -> None:
        if not self._ledger.fits(opened.capacity):
            _LOG.warning("no cache left for request %d: it goes undrafted", opened.request)
            self._refused.add(opened.request)
            return
        self._ledger.open(opened.request, opened.capacity)
        self._sequences[opened.request] = _Sequence(opened)

    def _close(self, number: int) -> None:
        self._sequences.pop(number, None)
        self._refused.discard(number)
        self._ledger.close(number)

    def _knows(self, item: DraftItem) -> bool:
        sequence = self._sequences.get(item.request)
        return sequence is not None and item.keep <= len(sequence.token_ids)

    def _copied(self, item: DraftItem) -> bool:
        return self._lookups.settings.ngram and self._sequences[item.request].copy(item.num_draft)

    def _grow(self, items: Items[DraftItem]) -> dict[int, ProposalItem]:
        """Return each item's tree, grown around what the model says along its likeliest path."""
        self._num_tree_steps = 0
        trunks = []
        for item in items:
            model = ModelGuesses()
            text = self._sequences[item.request].text
            sources: list[Source] = [model, *self._lookups.sources(text)]
            trunks.append(_Trunk(item, model, sources, [source.root() for source in sources]))
        asking = [trunk for trunk in trunks if trunk.wants_more]
        self._read([trunk.item for trunk in asking], leave=_PREFILL_CHUNK)
        while asking:
            self._ask_model(asking)
            self._num_tree_steps += 1
            asking = [trunk for trunk in asking if self._lengthen(trunk) and trunk.wants_more]
        found = {}
        for trunk in trunks:
            sequence = self._sequences[trunk.item.request]
            # The path that the model read was a guess: what it holds ends with the base.
            del sequence.token_ids[len(sequence.token_ids) - len(trunk.path) :]
            sequence.num_cached = min(sequence.num_cached, len(sequence.token_ids))
            tree = self._lookups.grow(sequence.text, trunk.item, trunk.sources)
            found[trunk.item.request] = tree_proposal(trunk.item, tree)
        return found

    def _lengthen(self, trunk: _Trunk) -> bool:
        """Go one token further along the likeliest path; False where nothing is known."""
        best = best_guess(trunk.sources, trunk.states, self._lookups.odds)
        if best is None:
            return False
        token, chance = best
        trunk.gain *= chance
        if trunk.wants_more:
            trunk.path += (token,)
            trunk.states = advanced(trunk.sources, trunk.states, token)
            self._sequences[trunk.item.request].token_ids.append(token)
        return True

    def _ask_model(self, trunks: Items[_Trunk]) -> None:
        """Let the model say what may follow each trunk."""
        scores = self._score([t.item for t in trunks], at_least=_CANDIDATES)
        for trunk, row in zip(trunks, scores, strict=True):
            sequence = self._sequences[trunk.item.request]
            trunk.model.known[trunk.path] = _model_guesses(row, sequence)

    def _read(self, items: Items[DraftItem], *, leave: int) -> None:
        """Bring the cache to within `leave` tokens of the end, in bounded chunks."""
        for item in items:
            sequence = self._sequences[item.request]
            while len(sequence.token_ids) - sequence.num_cached > max(leave, 1):
                stop = min(len(sequence.token_ids) - 1, sequence.num_cached + _PREFILL_CHUNK)
                rows = [self._rows(item.request, stop, num_logits=0)]
                self._runner.execute(self._ledger.plan(rows))

    def _advance(self, items: Items[DraftItem]) -> None:
        """Draft one more token for each item."""
        scores = self._score(items)
        for item, score in zip(items, scores, strict=True):
            sequence = self._sequences[item.request]
            opened, length = sequence.opened, len(sequence.token_ids)
            sampling = opened.sampling
            history = sequence.token_ids if sampling.repetition_penalty != 1 else ()
            position = length - opened.num_prompt
            if opened.send_probs:
                token, law = draft_token_with_law(score, sampling, opened.key, position, history)
                sequence.laws.append(law)
            else:
                token = draft_token(score, sampling, opened.key, position, history)
            sequence.draft.append(token)
            sequence.token_ids.append(token)

    def _score(self, items: Items[DraftItem], *, at_least: int = 0) -> list[ScoreRow]:
        """Return what the model says after the last token of each item's sequence."""
        rows, wanted = [], []
        for item in items:
            sequence = self._sequences[item.request]
            rows.append(self._rows(item.request, len(sequence.token_ids), num_logits=1))
            needed = num_candidates(sequence.opened.sampling)
            wanted.append(max(needed, at_least) if needed else 0)
        return self._runner.execute(self._ledger.plan(rows, wanted))

    def _rows(self, number: int, stop: int, *, num_logits: int) -> SequenceRows:
        sequence = self._sequences[number]
        start, sequence.num_cached = sequence.num_cached, stop
        tokens = tuple(sequence.token_ids[start:stop])
        return SequenceRows(slot=number, start=start, token_ids=tokens, num_logits=num_logits)

    def _proposal(self, item: DraftItem, first: int) -> ProposalItem:
        """Return an item's draft from its token `first` on, as far as it has come."""
        base = item.keep + len(item.tail)
        if not self._knows(item):
            unknown = item.request not in self._refused
            return ProposalItem(
                request=item.request, epoch=item.epoch, base=base, token_ids=(), unknown=unknown
            )
        sequence = self._sequences[item.request]
        return ProposalItem(
            request=item.request,
            epoch=item.epoch,
            base=base + first,
            token_ids=tuple(sequence.draft[first:]),
            draft_probs=tuple(sequence.laws[first:]),
        )


def _model_guesses(row: ScoreRow, sequence: _Sequence) -> list[Guess]:
    """Return the best tokens of the model's law; if the target samples, the drawn one first."""
    opened, tokens = sequence.opened, sequence.token_ids
    sampling = opened.sampling
    history = tokens if sampling.repetition_penalty != 1 else ()
    soft = sampling
    if sampling.is_greedy:
        soft = SamplingParams(temperature=1.0, repetition_penalty=sampling.repetition_penalty)
    law = distribution(row, soft, history)
    order = np.argsort(-law.probs, kind="stable")[:_ALTERNATIVES]
    chances = {int(law.ids[place]): float(law.probs[place]) for place in order}
    drawn = None
    if not sampling.is_greedy:  # the target draws with the same noise
        drawn = draft_token(row, sampling, opened.key, len(tokens) - opened.num_prompt, history)
    guesses = []
    if drawn is not None:
        level = _level(chances.get(drawn, 0.0))
        guesses.append(Guess(drawn, ("drawn", level), _DRAWN_PRIOR))
    for rank, (token, chance) in enumerate(chances.items()):
        if token != drawn:
            kind = ("model", rank, _level(chance), drawn is None)
            guesses.append(Guess(token, kind, chance))
    return guesses


def _level(chance: float) -> int:
    return min(int(chance * _LEVELS), _LEVELS - 1)
