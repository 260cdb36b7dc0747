"""A drafter's model and cache: opens, reads and scores the sequences of its requests."""

import logging
from collections.abc import Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

from parallel.batch import SequenceRows, TokenDraw
from parallel.decoding.sampling import draws_plainly, num_candidates
from parallel.decoding.score_row import ScoreRow
from parallel.messages import DraftItem, DraftOpen
from runtime.constraints.compiler import Constraints
from runtime.drafters.draft_constraint import draft_constraint
from runtime.drafters.draft_sequence import DraftSequence
from runtime.drafters.lookup_drafting import LookupText
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner

_LOG = logging.getLogger("paceline.drafter")
_PREFILL_CHUNK = 512  # bounds the activations of one forward
_NUM_CANDIDATES = 256  # that stand for the whole vocabulary in the drafts of outcomes


@dataclass(frozen=True, slots=True)
class TreeRows:
    """What one forward reads of a request's tree of outcomes."""

    request: int
    num_logits: int
    start: int | None = None
    """Place of the first node in the text; None: all tokens of the sequence not cached yet."""
    token_ids: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    """Of the whole tree, whose first nodes are cached."""
    num_ranked: int = 1
    """How many tokens of each row's order are looked at."""


class DraftModel:
    """Rank 0 of a drafter's group, with the sequences in its cache."""

    def __init__(
        self,
        runner: ShardRunner,
        ledger: SlotLedger,
        *,
        calibrates: bool,
        prompt_window: int | None = None,
        constraints: Constraints | None = None,
    ) -> None:
        self._prompt_window = prompt_window
        self._constraints = constraints
        self._runner = runner
        self._ledger = ledger
        self._calibrates = calibrates
        # The first step of a draft reads up to so many tokens; prompts are always read exactly.
        self._num_left_to_draft = _PREFILL_CHUNK if calibrates else 1
        self._sequences: dict[int, DraftSequence] = {}
        self._rejected: set[int] = set()

    def open(self, opened: DraftOpen, token_ids: tuple[int, ...]) -> None:
        """Open a request in place of an older one of its number; reject it if no cache is left."""
        self.close(opened.request)
        num_unread = 0
        if self._prompt_window is not None:
            num_unread = max(0, len(token_ids) - self._prompt_window)
        read_ids, capacity = token_ids[num_unread:], opened.capacity - num_unread
        if not self._ledger.fits(capacity, read_ids):
            _LOG.warning("no cache left for request %d: it gets no drafts", opened.request)
            self._rejected.add(opened.request)
            return
        num_cached = num_unread + self._ledger.open(opened.request, capacity, read_ids)
        self._sequences[opened.request] = DraftSequence(
            opened,
            num_unread=num_unread,
            num_cached=num_cached,
            num_exact=num_cached,
            text=LookupText(constraint=draft_constraint(opened, self._constraints)),
            constraint=draft_constraint(opened, self._constraints),
        )

    def close(self, number: int) -> None:
        """Free a request's cache."""
        self._sequences.pop(number, None)
        self._rejected.discard(number)
        self._ledger.close(number)

    def is_rejected(self, number: int) -> bool:
        """Return whether a request was rejected for want of cache."""
        return number in self._rejected

    def knows(self, item: DraftItem) -> bool:
        """Return whether the tokens that an item builds on are here."""
        sequence = self._sequences.get(item.request)
        return sequence is not None and item.keep <= len(sequence.token_ids)

    def sequence(self, number: int) -> DraftSequence:
        """Return the sequence of an open request."""
        return self._sequences[number]

    def read(self, items: Iterable[DraftItem], *, drafts: bool) -> None:
        """Read tokens into the cache, in bounded chunks.

        Args:
            items: whose tokens.
            drafts: whether a draft's first step follows, which reads the last tokens itself.
        """
        for item in items:
            num_scored = 1 + item.num_in_flight
            num_left = max(num_scored, self._num_left_to_draft) if drafts else 1
            sequence = self._sequences[item.request]
            while len(sequence.token_ids) - sequence.num_cached > num_left:
                last = len(sequence.token_ids) - (num_scored if drafts else 1)
                stop = min(last, sequence.num_cached + _PREFILL_CHUNK)
                rows = [self._rows(item.request, stop, num_logits=0)]
                self._runner.execute(self._ledger.plan(rows))

    def score(
        self, items: Items[DraftItem], *, width: int, at_least: int = 0, draws: bool = False
    ) -> list[ScoreRow]:
        """Return the model's scores after the last token of each item's sequence.

        Args:
            items: whose sequences.
            width: layers whose attention runs at once; 1 is exact.
            at_least: candidates to gather of each vocabulary, where not all are gathered.
            draws: whether one token is wanted of each row: a device may draw it instead.
        """
        rows: list[SequenceRows] = []
        num_gathered: list[int | None] = []
        for item in items:
            sequence = self._sequences[item.request]
            length = len(sequence.token_ids)
            row = self._rows(item.request, length, num_logits=1, exact=width == 1)
            rows.append(replace(row, draw=self._draw(sequence)) if draws else row)
            needed = num_candidates(sequence.opened.sampling)
            num_gathered.append(
                None if needed is None else max(needed, at_least) + self._num_surplus(sequence)
            )
        scores = self._runner.execute(self._ledger.plan(rows, num_gathered, width=width))
        return [
            self._known_to_target(score, self._sequences[item.request])
            for item, score in zip(items, scores, strict=True)
        ]

    def grow(self, number: int, capacity: int) -> bool:
        """Extend a request's cache to so many tokens; return False if too little is free."""
        return self._ledger.grow(number, capacity - self._sequences[number].num_unread)

    def score_trees(self, trees: Items[TreeRows], *, width: int) -> list[list[ScoreRow]]:
        """Return the scores of the rows that each tree asks for.

        Args:
            trees: the rows.
            width: layers whose attention runs at once; 1 is exact.
        """
        rows: list[SequenceRows] = []
        num_gathered: list[int | None] = []
        for tree in trees:
            sequence = self._sequences[tree.request]
            if tree.start is None:
                length = len(sequence.token_ids)
                rows.append(self._rows(tree.request, length, num_logits=tree.num_logits))
            else:
                rows.append(
                    SequenceRows(
                        slot=tree.request,
                        start=tree.start - sequence.num_unread,
                        token_ids=tree.token_ids,
                        num_logits=tree.num_logits,
                        parents=tree.parents,
                    )
                )
            num_gathered += [self._num_gathered(sequence, tree.num_ranked)] * tree.num_logits
        found = iter(self._runner.execute(self._ledger.plan(rows, num_gathered, width=width)))
        return [
            [
                self._known_to_target(next(found), self._sequences[tree.request])
                for _ in range(tree.num_logits)
            ]
            for tree in trees
        ]

    def note(self, items: Iterable[DraftItem]) -> None:
        """Note the prompt tokens that other requests may share; drafts may be rolled back."""
        for item in items:
            sequence = self._sequences[item.request]
            first, final = sequence.num_unread, min(sequence.num_exact, sequence.opened.num_prompt)
            self._ledger.record(item.request, sequence.token_ids[first:final], final - first)

    def keep_alive(self) -> None:
        """Broadcast an empty plan to the group's other ranks."""
        self._runner.execute(self._ledger.plan())

    def stop(self) -> None:
        """Broadcast the last plan: the group's other ranks end."""
        self._runner.execute(self._ledger.plan(stop=True))

    def _rows(self, number: int, stop: int, *, num_logits: int, exact: bool = True) -> SequenceRows:
        sequence = self._sequences[number]
        start, sequence.num_cached = sequence.num_cached, stop
        if (exact and sequence.num_exact == start) or not self._calibrates:
            sequence.num_exact = stop
        return SequenceRows(
            slot=number,
            start=start - sequence.num_unread,
            token_ids=tuple(sequence.token_ids[start:stop]),
            num_logits=num_logits,
        )

    def _num_gathered(self, sequence: DraftSequence, num_ranked: int) -> int | None:
        """Return how many best tokens of a row to gather; None is all of them.

        Greedy, the order is that of the logits. Otherwise the best ones stand for all: only which
        tokens are drafted depends on it.
        """
        sampling = sequence.opened.sampling
        if sampling.shapes_logits:
            return None
        needed = num_ranked
        if not sampling.is_greedy:
            needed = max(num_candidates(sampling) or 0, _NUM_CANDIDATES)
        needed += self._num_surplus(sequence)
        return needed if needed < self._runner.vocab_size else None

    def _draw(self, sequence: DraftSequence) -> TokenDraw | None:
        """Return how a device drafts a token; None where that needs scores."""
        opened = sequence.opened
        is_cut = sequence.constraint is not None or self._num_surplus(sequence) > 0
        if opened.send_probs or is_cut or not draws_plainly(opened.sampling):
            return None
        return TokenDraw(
            key=opened.key, position=sequence.position, temperature=opened.sampling.temperature
        )

    def _num_surplus(self, sequence: DraftSequence) -> int:
        """Return how many tokens this model knows and the target does not."""
        known = sequence.opened.vocab_size
        return 0 if known is None else max(0, self._runner.vocab_size - known)

    def _known_to_target(self, row: ScoreRow, sequence: DraftSequence) -> ScoreRow:
        """Return a row without the tokens that the target does not know.

        They are cut before anything is drawn: probabilities that are cut afterwards would not be
        those that the token was drawn from.
        """
        vocab_size = sequence.opened.vocab_size
        if vocab_size is None or not self._num_surplus(sequence):
            return row
        if row.ids is None:
            return ScoreRow(row.logits[:vocab_size], None)
        known = row.ids < vocab_size
        return ScoreRow(row.logits[known], row.ids[known])
