"""A drafter with a model on a group of its own, which may also look up what it drafts."""

import logging
from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parallel.decoding.sampling import distribution, num_candidates
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import SamplingParams, SparseProbs
from parallel.decoding.verify import draft_token, draft_token_with_law
from parallel.drafting.tree import Guess, Odds, Source, advanced, best_guess
from parallel.messages import DraftItem, DraftOpen, DraftRequest, ProposalItem
from parallel.model.batch import SequenceRows
from runtime.drafters.drafting import DraftPart
from runtime.drafters.lookup_drafting import Lookups, LookupText, tree_proposal
from runtime.drafters.lookup_settings import NO_LOOKUPS, LookupSettings
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner

_LOG = logging.getLogger("paceline.drafter")
_SURE_MATCH = 3  # tokens that were the same from which a copy beats a small model
_PREFILL_CHUNK = 512  # bounds the activations of one forward
_MAX_STEPS = 8  # of the model in one tree
_ALTERNATIVES = 3  # tokens of the model after each path
_CANDIDATES = 16  # that stand for the whole vocabulary where only the best are gathered
_LEVELS = 10  # by which the model's own probabilities are told apart
_DRAWN_PRIOR = 0.5
_FIRST_CHANCE = 0.5  # of the likeliest token once the model was asked, until more is known
_SMOOTHING = 0.02


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

    num_asked: int = 0

    @property
    def is_long_enough(self) -> bool:
        """Whether no step of the model after this path could be worth its time."""
        too_long = len(self.path) >= self.item.num_draft or self.num_asked >= _MAX_STEPS
        return too_long or self.gain < self.item.least_gain

    def best(self, odds: Odds) -> tuple[int, float] | None:
        """Return the likeliest next token by all that is known, with its probability."""
        return best_guess(self.sources, self.states, odds)


@dataclass(slots=True)
class _Sequence:
    opened: DraftOpen
    token_ids: list[int] = field(default_factory=list)
    num_cached: int = 0
    num_exact: int = 0
    """Of the cached ones, how many were read by exact forwards."""
    draft: list[int] = field(default_factory=list)
    laws: list[SparseProbs] = field(default_factory=list)
    text: LookupText = field(default_factory=LookupText)

    def follow(self, item: DraftItem, lookups: Lookups) -> None:
        """Roll back to what stays valid and read what follows."""
        self.text.index.append(self.token_ids[len(self.text.index) : item.keep])
        lookups.follow(self.text, item)
        kept = item.keep if self.token_ids else self.num_cached  # what it began with is shared
        self.token_ids[item.keep :] = item.tail
        self.cut(min(self.num_exact, kept, len(self.token_ids) - 1))
        self.draft, self.laws = [], []

    def cut(self, num_cached: int) -> None:
        """Forget what the cache holds beyond so many tokens."""
        self.num_cached = min(self.num_cached, num_cached)
        self.num_exact = min(self.num_exact, num_cached)

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

    With a width above 1 each draft's first forward is exact, over all tokens whose keys and values
    are not, and the others are fuzzy (EasySpec, Wu et al., arXiv 2502.02493): the calibration is
    the first step of the next draft.
    """

    def __init__(
        self,
        runner: ShardRunner,
        ledger: SlotLedger,
        *,
        lookups: LookupSettings = NO_LOOKUPS,
        grows_trees: bool = False,
        width: int | None = None,
        step_s: tuple[float, ...] = (),
        calibrates: bool = True,
    ) -> None:
        """Draft with the model of `runner`.

        Args:
            runner: rank 0 of the drafter group.
            ledger: the account of its cache.
            lookups: what it may look up.
            grows_trees: whether it offers to draft trees.
            width: layers whose attention is to run at once; None leaves it to the leader.
            step_s: seconds that a step is predicted to take with widths 1, 2, ...
            calibrates: whether each draft first reads anew, exactly, what fuzzy forwards read; that
                costs no forward of its own. Without, errors pile up: for experiments alone.

        Raises:
            ConfigError: the store of texts cannot be read.
        """
        self.grows_trees = grows_trees
        self._runner = runner
        self._ledger = ledger
        self._lookups = Lookups(lookups)
        self._sequences: dict[int, _Sequence] = {}
        self._refused: set[int] = set()
        self.width = width
        self.step_s = step_s
        self._calibrates = calibrates
        # A draft's first step reads up to so many tokens; prompts are read exactly in any case.
        self._left_to_draft = _PREFILL_CHUNK if calibrates else 1
        self._num_tree_steps = 0
        self._usual_chance = _FIRST_CHANCE

    @property
    def num_successors(self) -> int:
        """How many best tokens it wants to hear of after each one the target scored."""
        return self._lookups.num_successors

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:
        """Draft for every item at once, one ragged forward for each draft position."""
        for number in request.closed:
            self._close(number)
        begins = {item.request: item.tail for item in request.items if item.keep == 0}
        for opened in request.opened:
            self._close(opened.request)
            self._open(opened, begins.get(opened.request, ()))
        known = [item for item in request.items if self._knows(item)]
        for item in known:
            self._sequences[item.request].follow(item, self._lookups)
        self._read([item for item in known if item.num_draft == 0], leave=0)
        wanting = [item for item in known if item.num_draft > 0]
        trees = {item.request: item for item in wanting if item.tree}
        width = request.width or 1
        grown = self._grow(list(trees.values()), width)
        chains = [item for item in wanting if item.request not in trees]
        drafting = [item for item in chains if not self._copied(item)]
        self._read(drafting, leave=self._left_to_draft)
        num_steps = max((item.num_draft for item in drafting), default=0)
        streaming = [item for item in drafting if item.stream and num_steps > 1]
        for index in range(num_steps):
            going_on = [item for item in drafting if item.num_draft > index]
            self._advance(going_on, width=self._step_width(width, index))
            if index == 0 and streaming:
                yield DraftPart(tuple(self._proposal(item, 0) for item in streaming), partial=True)
        for item in known:
            sequence = self._sequences[item.request]
            certain = min(sequence.num_exact, sequence.opened.num_prompt)  # drafts may go again
            self._ledger.record(item.request, sequence.token_ids, certain)
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

    def _open(self, opened: DraftOpen, token_ids: tuple[int, ...]) -> None:
        if not self._ledger.fits(opened.capacity, token_ids):
            _LOG.warning("no cache left for request %d: it goes undrafted", opened.request)
            self._refused.add(opened.request)
            return
        num_cached = self._ledger.open(opened.request, opened.capacity, token_ids)
        self._sequences[opened.request] = _Sequence(
            opened, num_cached=num_cached, num_exact=num_cached
        )

    def _close(self, number: int) -> None:
        self._sequences.pop(number, None)
        self._refused.discard(number)
        self._ledger.close(number)

    def _knows(self, item: DraftItem) -> bool:
        sequence = self._sequences.get(item.request)
        return sequence is not None and item.keep <= len(sequence.token_ids)

    def _copied(self, item: DraftItem) -> bool:
        return self._lookups.copies_text and self._sequences[item.request].copy(item.num_draft)

    def _grow(self, items: Items[DraftItem], width: int) -> dict[int, ProposalItem]:
        """Return each item's tree, grown around what the model says along its likeliest path."""
        self._num_tree_steps = 0
        trunks = []
        for item in items:
            model = ModelGuesses()
            text = self._sequences[item.request].text
            sources: list[Source] = [model, *self._lookups.sources(text)]
            trunks.append(_Trunk(item, model, sources, [source.root() for source in sources]))
        asking = [trunk for trunk in trunks if self._wants_model(trunk)]
        self._read([trunk.item for trunk in asking], leave=self._left_to_draft)
        while asking:
            self._ask_model(asking, width=self._step_width(width, self._num_tree_steps))
            self._num_tree_steps += 1
            asking = [trunk for trunk in asking if self._wants_model(trunk)]
        found = {}
        for trunk in trunks:
            sequence = self._sequences[trunk.item.request]
            # The path that the model read was a guess: what it holds ends with the base.
            del sequence.token_ids[len(sequence.token_ids) - len(trunk.path) :]
            sequence.cut(len(sequence.token_ids))
            tree = self._lookups.grow(sequence.text, trunk.item, trunk.sources)
            found[trunk.item.request] = tree_proposal(trunk.item, tree)
        return found

    def _step_width(self, width: int, index: int) -> int:
        """Return the layers at a time of a draft's step: the first one calibrates."""
        return 1 if index == 0 and self._calibrates else width

    def _wants_model(self, trunk: _Trunk) -> bool:
        """Follow what is looked up with confidence; True where the model should be asked next.

        What a step of the model adds is its confidence beyond what is known without it.
        """
        while not trunk.is_long_enough:
            best = trunk.best(self._lookups.odds)
            chance = 0.0 if best is None else best[1]
            if trunk.gain * (1 - chance / self._usual_chance) >= trunk.item.least_gain:
                return True
            if best is None:
                return False
            self._lengthen(trunk, *best)
        return False

    def _lengthen(self, trunk: _Trunk, token: int, chance: float) -> None:
        trunk.gain *= chance
        trunk.path += (token,)
        trunk.states = advanced(trunk.sources, trunk.states, token)
        self._sequences[trunk.item.request].token_ids.append(token)

    def _ask_model(self, trunks: Items[_Trunk], *, width: int) -> None:
        """Let the model say what may follow each trunk, and follow the likeliest token."""
        scores = self._score([t.item for t in trunks], width=width, at_least=_CANDIDATES)
        for trunk, row in zip(trunks, scores, strict=True):
            sequence = self._sequences[trunk.item.request]
            trunk.model.known[trunk.path] = _model_guesses(row, sequence)
            trunk.num_asked += 1
            best = trunk.best(self._lookups.odds)
            assert best is not None
            self._usual_chance += _SMOOTHING * (best[1] - self._usual_chance)
            self._lengthen(trunk, *best)

    def _read(self, items: Items[DraftItem], *, leave: int) -> None:
        """Bring the cache to within `leave` tokens of the end, in bounded chunks."""
        for item in items:
            sequence = self._sequences[item.request]
            while len(sequence.token_ids) - sequence.num_cached > max(leave, 1):
                stop = min(len(sequence.token_ids) - 1, sequence.num_cached + _PREFILL_CHUNK)
                rows = [self._rows(item.request, stop, num_logits=0)]
                self._runner.execute(self._ledger.plan(rows))

    def _advance(self, items: Items[DraftItem], *, width: int) -> None:
        """Draft one more token for each item."""
        scores = self._score(items, width=width)
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

    def _score(self, items: Items[DraftItem], *, width: int, at_least: int = 0) -> list[ScoreRow]:
        """Return what the model says after the last token of each item's sequence."""
        rows, wanted = [], []
        for item in items:
            sequence = self._sequences[item.request]
            length = len(sequence.token_ids)
            rows.append(self._rows(item.request, length, num_logits=1, exact=width == 1))
            needed = num_candidates(sequence.opened.sampling)
            wanted.append(max(needed, at_least) + self._surplus(sequence) if needed else 0)
        scores = self._runner.execute(self._ledger.plan(rows, wanted, width=width))
        return [
            self._known_to_target(score, self._sequences[item.request])
            for item, score in zip(items, scores, strict=True)
        ]

    def _surplus(self, sequence: _Sequence) -> int:
        """Return how many tokens this model knows and the target does not."""
        known, mine = sequence.opened.vocab_size, self._runner.vocab_size
        return 0 if known is None else max(0, mine - known)

    def _known_to_target(self, row: ScoreRow, sequence: _Sequence) -> ScoreRow:
        """Return a row without the tokens that the target does not know.

        They are cut before anything is drawn: probabilities that are cut afterwards would not be
        those that the token was drawn from.
        """
        vocab_size = sequence.opened.vocab_size
        if vocab_size is None or not self._surplus(sequence):
            return row
        if row.ids is None:
            return ScoreRow(row.logits[:vocab_size], None)
        known = row.ids < vocab_size
        return ScoreRow(row.logits[known], row.ids[known])

    def _rows(self, number: int, stop: int, *, num_logits: int, exact: bool = True) -> SequenceRows:
        sequence = self._sequences[number]
        start, sequence.num_cached = sequence.num_cached, stop
        if (exact and sequence.num_exact == start) or not self._calibrates:
            sequence.num_exact = stop
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
