"""A model's drafts for many outcomes of a verdict, grown token by token as one tree.

The first forward reads the recovered token and the drafts in flight; its rows tell what may follow
each of them. Every further forward adds a token to the draft of every outcome: a branch sees the
text, the drafts in flight that its outcome keeps, and its own tokens. The branches are in the cache
until the next request, which begins with the drafts in flight and overwrites them.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

from parallel.decoding.sampling import RankedToken, ranked
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import SparseProbs
from parallel.decoding.verdict_outcomes import OutcomeDraft, VerdictOutcome
from parallel.decoding.verify import draft_token, draft_token_with_probs
from parallel.drafting.outcome_choice import OutcomeOdds, likeliest_outcomes
from parallel.messages import DraftItem, ProposalItem
from runtime.drafters.draft_model import DraftModel, TreeRows
from runtime.drafters.draft_sequence import DraftSequence, Foreseen

_NUM_RANKS = 8
"""Guesses of a token where the draft is wrong."""
_MORE_RANKS = 4
"""Further ones for each further drafter that shares the outcomes."""


@dataclass(slots=True)
class _Branch:
    """A draft after one outcome."""

    outcome: VerdictOutcome
    parent: int
    """Its last node in the tree that has been read."""
    unread: int
    """Its last token, which the next forward reads."""
    token_ids: list[int] = field(default_factory=list)
    """After the outcome's token."""


@dataclass(slots=True)
class _Tree:
    """The branches of one request."""

    item: DraftItem
    sequence: DraftSequence
    num_committed: int
    parents: list[int]
    """Of the drafts in flight, and of every node read since."""
    branches: list[_Branch] = field(default_factory=list)
    probs: list[SparseProbs] = field(default_factory=list)
    """Of the newest token of PEARL's own branch, where they are sent."""

    @property
    def own(self) -> _Branch | None:
        """PEARL's branch, after all drafts in flight; None where another drafter has it."""
        return self.branches[0] if self.item.outcome_part == 0 else None

    @property
    def others(self) -> list[_Branch]:
        """The branches after other outcomes."""
        return self.branches[1:] if self.item.outcome_part == 0 else self.branches

    @property
    def num_ranks(self) -> int:
        """How many guesses of each token to look at."""
        return _NUM_RANKS + _MORE_RANKS * (self.item.num_outcome_parts - 1)

    def position(self, branch: _Branch) -> int:
        """Return the place in the output of a branch's next token."""
        num_known = self.num_committed + branch.outcome.num_accepted + 1 + len(branch.token_ids)
        return num_known - self.sequence.opened.num_prompt

    def history(self, branch: _Branch) -> list[int]:
        """Return the tokens that a repetition penalty counts for a branch's next token."""
        return self._text(branch) if self.sequence.opened.sampling.reads_history else []

    def masked(self, row: ScoreRow, branch: _Branch) -> ScoreRow:
        """Return a row after a branch without what may not follow it."""
        if self.sequence.constraint is None:
            return row
        return self.sequence.masked(row, self._text(branch))

    def _text(self, branch: _Branch) -> list[int]:
        num_kept = self.num_committed + branch.outcome.num_accepted
        kept = self.sequence.token_ids[:num_kept]
        return [*kept, branch.outcome.next_token, *branch.token_ids]


class ModelOutcomes:
    """Drafts for the likeliest outcomes of each request's verdict."""

    def __init__(self, model: DraftModel) -> None:
        self._model = model
        self._overall = OutcomeOdds()

    def learn(self, sequence: DraftSequence, item: DraftItem) -> None:
        """Compare what was thought of the last verdict with the tokens that an item brings."""
        foreseen, sequence.foreseen = sequence.foreseen, None
        known = len(sequence.token_ids) - item.num_in_flight
        if foreseen is None or known <= foreseen.num_committed:
            return
        odds = self._odds(sequence)
        actual = sequence.token_ids[foreseen.num_committed : known]
        places = zip(actual, foreseen.drafts, foreseen.margins, foreseen.guesses, strict=False)
        for token, draft, margin, guesses in places:
            odds.observe_draft(margin, kept=token == draft)
            if token != draft:
                odds.observe_guesses(guesses, token)
                return

    def draft(
        self, items: Items[DraftItem], *, width: int
    ) -> Iterator[tuple[tuple[ProposalItem, ...], bool]]:
        """Yield the outcomes with PEARL's own first token, and then each step's tokens.

        With each part, whether it is the last one.

        Args:
            items: which ask for outcomes.
            width: layers at a time of all forwards but the first.
        """
        trees = [self._start(item) for item in items]
        self._model.read(items, drafts=True)
        rows = [
            TreeRows(
                tree.item.request, num_logits=len(tree.parents) + 1, num_ranked=tree.num_ranks + 1
            )
            for tree in trees
        ]
        for tree, scores in zip(trees, self._model.score_trees(rows, width=1), strict=True):
            self._choose(tree, scores)
        growing = _growing(trees, 1)
        yield tuple(_first_part(tree) for tree in trees), not growing
        step = 1
        while growing:
            rows = [_unread_rows(tree) for tree in growing]
            found = self._model.score_trees(rows, width=width)
            for tree, scores in zip(growing, found, strict=True):
                _extend(tree, scores)
            parts = tuple(_part(tree, step) for tree in growing)
            step += 1
            growing = _growing(growing, step)
            yield parts, not growing

    def _odds(self, sequence: DraftSequence) -> OutcomeOdds:
        if sequence.odds is None:
            sequence.odds = OutcomeOdds(self._overall)
        return sequence.odds

    def _start(self, item: DraftItem) -> _Tree:
        sequence = self._model.sequence(item.request)
        num_committed = len(sequence.token_ids) - item.num_in_flight
        sequence.truncate_cache(num_committed - 1)
        return _Tree(item, sequence, num_committed, list(range(-1, item.num_in_flight - 1)))

    def _choose(self, tree: _Tree, scores: Items[ScoreRow]) -> None:
        """Start the branches, PEARL's own first."""
        sequence, opened = tree.sequence, tree.sequence.opened
        drafts = sequence.token_ids[tree.num_committed :]
        orders: list[list[RankedToken]] = []
        for place, row in enumerate(scores):
            stop = tree.num_committed + place
            row = sequence.masked(row, sequence.token_ids[:stop])
            history = sequence.token_ids[:stop] if opened.sampling.reads_history else ()
            inputs = (row, opened.sampling, opened.key, stop - opened.num_prompt, history)
            orders.append(ranked(*inputs, num=tree.num_ranks + 1))
            if place == len(drafts):
                own = orders[-1][0].token
                if opened.send_probs:
                    own, probs = draft_token_with_probs(*inputs)
                    tree.probs = [probs]
                drafts = [*drafts, own]
        foreseen = _foreseen(tree.num_committed, drafts, orders, num_guesses=tree.num_ranks)
        sequence.foreseen = foreseen
        outcomes = [VerdictOutcome(len(drafts) - 1, drafts[-1]), *self._others(tree, foreseen)]
        item = tree.item
        tree.branches = [
            _Branch(outcome, outcome.num_accepted - 1, outcome.next_token)
            for outcome in outcomes[item.outcome_part :: item.num_outcome_parts]
        ]

    def _others(self, tree: _Tree, foreseen: Foreseen) -> Iterator[VerdictOutcome]:
        """Yield the likeliest outcomes beside PEARL's own, for all drafters that share them."""
        odds = self._odds(tree.sequence)
        places = likeliest_outcomes(
            [odds.acceptance(margin) for margin in foreseen.margins],
            odds.guesses(tree.num_ranks),
            self._room_for(tree) * tree.item.num_outcome_parts - 1,
        )
        for found in places:
            guesses = foreseen.guesses[found.num_accepted]
            if found.rank < len(guesses):
                yield VerdictOutcome(found.num_accepted, guesses[found.rank])

    def _room_for(self, tree: _Tree) -> int:
        """Return how many branches the cache has room for; one always fits."""
        num, length = tree.item.num_outcomes, len(tree.sequence.token_ids)
        while num > 1:
            if self._model.grow(tree.item.request, length + num * tree.item.num_draft):
                return num
            num //= 2
        return 1


def _foreseen(
    num_committed: int,
    drafts: Items[int],
    orders: Items[Items[RankedToken]],
    *,
    num_guesses: int,
) -> Foreseen:
    margins, guesses = [], []
    for draft, order in zip(drafts, orders, strict=True):
        others = [each for each in order if each.token != draft]
        own = next((each.score for each in order if each.token == draft), order[-1].score)
        margins.append(own - others[0].score if others else float("inf"))
        guesses.append(tuple(each.token for each in others[:num_guesses]))
    return Foreseen(num_committed, tuple(drafts), tuple(margins), tuple(guesses))


def _growing(trees: Items[_Tree], step: int) -> list[_Tree]:
    """Return the trees that a step adds tokens to."""
    return [tree for tree in trees if tree.branches and tree.item.num_draft > step]


def _unread_rows(tree: _Tree) -> TreeRows:
    """Append each branch's unread token to the tree, and return the rows that read them."""
    num_read = len(tree.parents)
    for branch in tree.branches:
        tree.parents.append(branch.parent)
        branch.parent = len(tree.parents) - 1
    return TreeRows(
        tree.item.request,
        num_logits=len(tree.branches),
        start=tree.num_committed + num_read,
        token_ids=tuple(branch.unread for branch in tree.branches),
        parents=tuple(tree.parents),
    )


def _extend(tree: _Tree, scores: Items[ScoreRow]) -> None:
    """Draw one more token of every branch."""
    opened = tree.sequence.opened
    for branch, row in zip(tree.branches, scores, strict=True):
        position, history = tree.position(branch), tree.history(branch)
        row = tree.masked(row, branch)
        inputs = (row, opened.sampling, opened.key, position, history)
        if opened.send_probs and branch is tree.own:
            token, probs = draft_token_with_probs(*inputs)
            tree.probs = [probs]
        else:
            token = draft_token(*inputs)
        branch.token_ids.append(token)
        branch.unread = token


def _first_part(tree: _Tree) -> ProposalItem:
    token_ids = (tree.own.outcome.next_token,) if tree.own else ()
    return _proposal(tree, 0, token_ids, [(each.outcome, 0, ()) for each in tree.others])


def _part(tree: _Tree, step: int) -> ProposalItem:
    parts = [(each.outcome, step - 1, (each.token_ids[-1],)) for each in tree.others]
    return _proposal(tree, step, (tree.own.token_ids[-1],) if tree.own else (), parts)


def _proposal(
    tree: _Tree,
    step: int,
    token_ids: tuple[int, ...],
    parts: Items[tuple[VerdictOutcome, int, tuple[int, ...]]],
) -> ProposalItem:
    item = tree.item
    return ProposalItem(
        request=item.request,
        epoch=item.epoch,
        base=item.keep + len(item.tail) + (step if token_ids else 0),
        token_ids=token_ids,
        draft_probs=tuple(tree.probs),
        outcomes=tuple(
            OutcomeDraft(outcome=outcome, first=first, token_ids=token_ids)
            for outcome, first, token_ids in parts
        ),
    )
