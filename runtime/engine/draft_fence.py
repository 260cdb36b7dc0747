"""What the leader accepts from a drafter: answers to its requests, with values it can test.

Every proposal passes here, whichever link brought it. What is wrong costs drafts: a draft is cut
before its first bad token, which no verifier can distinguish from a shorter draft, so the output
keeps the target's distribution.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index

from parallel.decoding.types import DraftTree, NodeKind, SparseProbs
from parallel.decoding.verdict_outcomes import OutcomeDraft, VerdictOutcome
from parallel.messages import DraftItem, DraftRequest, Proposal, ProposalItem

_SUM_TOLERANCE = 1e-4  # of probabilities; 64 of them in float32 are off by 1e-6
_MAX_SECONDS = 3600.0
_MAX_STEPS = 10_000
_REMEMBERED_ROUNDS = 32  # answers to older ones count as unasked


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedDraft:
    """One request's draft as far as it can be tested."""

    request: int
    epoch: int
    base: int
    draft: DraftTree
    gains: tuple[float, ...] = ()
    """The drafter's estimate that each token is kept; empty where it has none."""
    outcomes: tuple[OutcomeDraft, ...] = ()
    """Drafts after other outcomes, or later parts of them."""
    is_held: bool = True
    """Whether the drafter holds the draft: not a tree, nor one of several outcomes' drafts."""
    unknown: bool = False
    """Whether the drafter lacks the request's tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedProposal:
    """What is left of a proposal, and what was wrong with it."""

    round: int
    drafts: tuple[CheckedDraft, ...] = ()
    partial: bool = False
    draft_s: float = 0.0
    num_steps: int = 0
    problems: tuple[str, ...] = ()
    """Empty for a good proposal."""

    @property
    def is_answer(self) -> bool:
        """Whether it ends the answer to a round."""
        return self.round > 0 and not self.partial


@dataclass(slots=True)
class _Asked:
    """One item of a round, and how much of its answer has arrived."""

    item: DraftItem
    sends_probs: bool
    is_whole: bool
    """Whether the drafter was sent the request from its first token."""
    num_taken: int = 0
    is_begun: bool = False
    """Whether a part has arrived."""

    @property
    def base(self) -> int:
        return self.item.keep + len(self.item.tail) + self.num_taken

    @property
    def num_left(self) -> int:
        return self.item.num_draft - self.num_taken

    @property
    def is_lacking(self) -> bool:
        """Whether the last part of an answer must hold something for it.

        Drafts for several outcomes end wherever the next request interrupts them.
        """
        return self.item.num_draft > 0 and not (self.item.num_outcomes and self.is_begun)


class DraftFence:
    """Checks what one drafter sends against what was requested."""

    def __init__(self, vocab_size: int) -> None:
        """Expect nothing yet.

        Args:
            vocab_size: tokens the target knows.
        """
        self._vocab_size = vocab_size
        self._rounds: dict[int, dict[int, _Asked]] = {}
        self._sends_probs: dict[int, bool] = {}

    def expect(self, request: DraftRequest) -> None:
        """Note what the drafter is asked for in a round."""
        for number in request.closed:
            self._sends_probs.pop(number, None)
        self._sends_probs.update((opened.request, opened.send_probs) for opened in request.opened)
        self._rounds[request.round] = {
            item.request: _Asked(
                item, self._sends_probs.get(item.request, False), is_whole=item.keep == 0
            )
            for item in request.items
        }
        while len(self._rounds) > _REMEMBERED_ROUNDS:
            del self._rounds[next(iter(self._rounds))]

    def check(self, proposal: Proposal) -> CheckedProposal:
        """Return what can be used of a proposal; raises nothing, whatever it holds."""
        number = 0
        try:
            number = index(proposal.round)
            asked = self._rounds.get(number)
            if asked is not None:
                return self._checked(proposal, number, asked)
            problem = f"it answers round {number}, which was not requested or is answered"
            number = 0
        except Exception as error:  # a drafter in this process may hand over objects of any type
            self._rounds.pop(number, None)
            problem = f"its answer is malformed: {error!r}"
        return CheckedProposal(round=number, problems=(problem,))

    def _checked(
        self, proposal: Proposal, number: int, asked: dict[int, _Asked]
    ) -> CheckedProposal:
        partial = bool(proposal.partial)
        problems: list[str] = []
        drafts = []
        for item in proposal.items[: len(asked) + 1]:
            found = asked.get(item.request)
            if found is None:
                problems.append(f"it drafts for request {item.request!r}, which was not requested")
                continue
            if not partial:
                del asked[item.request]  # once
            drafts.append(_checked_draft(found, item, self._vocab_size, problems, partial=partial))
        if not partial:
            lacking = [request for request, left in asked.items() if left.is_lacking]
            problems += [f"its answer lacks request {request}" for request in lacking[:1]]
            del self._rounds[number]
        elif not any(draft.draft.token_ids or draft.outcomes for draft in drafts):
            problems.append(f"a part of its answer to round {number} holds no token")
        draft_s, num_steps = float(proposal.draft_s), index(proposal.num_steps)
        if not (0 <= draft_s <= _MAX_SECONDS and 0 <= num_steps <= _MAX_STEPS):
            problems.append(f"it reports {num_steps} steps in {draft_s} s")
            draft_s, num_steps = 0.0, 0
        return CheckedProposal(
            round=number,
            drafts=tuple(drafts),
            partial=partial,
            draft_s=draft_s,
            num_steps=num_steps,
            problems=tuple(problems),
        )


def _checked_draft(
    asked: _Asked, item: ProposalItem, vocab_size: int, problems: list[str], *, partial: bool
) -> CheckedDraft:
    """Return one item's draft up to its first problem, and note the problem."""
    known = CheckedDraft(
        request=asked.item.request, epoch=asked.item.epoch, base=asked.base, draft=DraftTree()
    )
    problem = _misplaced(asked, item, partial=partial)
    asked.is_begun = True
    if not problem:
        if item.unknown and not asked.is_whole:
            return replace(known, unknown=True)
        draft, problem = usable_draft(
            item,
            vocab_size,
            max_tokens=asked.num_left,
            sends_probs=asked.sends_probs,
            tree=asked.item.tree,
        )
        asked.num_taken += len(draft)
        gains, wrong_gains = _checked_gains(item.gains, len(draft))
        outcomes, wrong_outcomes = usable_outcomes(item.outcomes, asked.item, vocab_size)
        problem = problem or wrong_gains or wrong_outcomes
        if item.unknown:
            problem = "it reports as unknown a request that it was sent whole"
        known = replace(
            known,
            draft=draft,
            gains=gains,
            outcomes=outcomes,
            is_held=not (item.parents or asked.item.num_outcomes),
        )
    if problem:
        problems.append(f"request {asked.item.request}: {problem}")
        known = replace(known, unknown=True)  # its cache cannot be trusted
    return known


def _misplaced(asked: _Asked, item: ProposalItem, *, partial: bool) -> str:
    """Return why an item does not continue what was asked for; "" if it does."""
    if partial and not asked.item.stream:
        return "it streamed the first token, which was not requested"
    if item.epoch != asked.item.epoch:
        return f"epoch is {item.epoch!r}, expected {asked.item.epoch}"
    if item.base != asked.base:
        return f"the draft begins after {item.base!r} tokens, not after {asked.base}"
    return ""


def usable_draft(
    item: ProposalItem, vocab_size: int, *, max_tokens: int, sends_probs: bool, tree: bool
) -> tuple[DraftTree, str]:
    """Return a draft up to the first token that cannot be tested, and why that one cannot.

    Args:
        item: what the drafter proposes.
        vocab_size: tokens the target knows; a draft may hold no other.
        max_tokens: tokens that were requested.
        sends_probs: whether the verifier needs the probabilities that tokens were drawn from;
            without them a token counts as chosen by a rule, which is exact too.
        tree: whether a tree was requested.
    """
    parents = tuple(index(parent) for parent in item.parents[: max_tokens + 1])
    is_chain = all(parent == node - 1 for node, parent in enumerate(parents))
    draft_probs = item.draft_probs if sends_probs else ()
    if draft_probs and not is_chain:
        # Siblings may be drawn independently or without replacement: the test differs.
        return DraftTree(), "a tree with draft probabilities, which was not requested"
    if draft_probs and len(draft_probs) != len(item.token_ids):
        return DraftTree(), f"{len(draft_probs)} distributions for {len(item.token_ids)} tokens"
    if len(item.parents) not in (0, len(item.token_ids)):
        return DraftTree(), f"{len(item.parents)} parents for {len(item.token_ids)} tokens"
    problem = "" if is_chain or tree else "a tree, a chain was requested"
    token_ids: list[int] = []
    for node, given in enumerate(item.token_ids):
        token = index(given)
        if node == max_tokens:
            problem = f"{len(item.token_ids)} tokens, {max_tokens} were requested"
        elif not 0 <= token < vocab_size:
            problem = f"token {token}, the target knows {vocab_size}"
        elif parents and not (-1 <= parents[node] < node):
            problem = f"token {node} follows token {parents[node]}"
        elif draft_probs and not can_have_drawn(draft_probs[node], token, vocab_size):
            problem = f"token {token} has no probability in its draft probabilities"
        else:
            token_ids.append(token)
            continue
        break
    num = len(token_ids)
    found = DraftTree(
        token_ids=tuple(token_ids),
        parents=parents[:num] or tuple(range(-1, num - 1)),
        kinds=(NodeKind.IID if draft_probs else NodeKind.POINT,) * num,
        draft_probs=tuple(draft_probs[:num]) if draft_probs else (None,) * num,
    )
    return found if is_chain or tree else found.trunk, problem


def usable_outcomes(
    parts: Sequence[OutcomeDraft], asked: DraftItem, vocab_size: int
) -> tuple[tuple[OutcomeDraft, ...], str]:
    """Return the drafts for outcomes before the first that cannot be used, and why it cannot.

    Args:
        parts: what the drafter proposes.
        asked: the item that it answers.
        vocab_size: tokens the target knows.
    """
    usable: list[OutcomeDraft] = []
    for given in parts:
        outcome = VerdictOutcome(index(given.outcome.num_accepted), index(given.outcome.next_token))
        token_ids = tuple(index(token) for token in given.token_ids)
        first = index(given.first)
        problem = ""
        if len(usable) == asked.num_outcomes:
            problem = f"{len(parts)} outcomes, {asked.num_outcomes} were requested"
        elif not 0 <= outcome.num_accepted <= asked.num_in_flight:
            problem = f"an outcome that keeps {outcome.num_accepted} of {asked.num_in_flight}"
        elif not all(0 <= token < vocab_size for token in (outcome.next_token, *token_ids)):
            problem = f"an outcome with tokens that the target, which knows {vocab_size}, does not"
        elif not 0 <= first <= first + len(token_ids) <= asked.num_draft:
            problem = f"{first + len(token_ids)} tokens for an outcome, not {asked.num_draft}"
        if problem:
            return tuple(usable), problem
        usable.append(OutcomeDraft(outcome=outcome, first=first, token_ids=token_ids))
    return tuple(usable), ""


def can_have_drawn(given: SparseProbs, token: int, vocab_size: int) -> bool:
    """Return whether these are probabilities over the target's tokens that allow `token`."""
    if not len(given.ids) == len(given.probs) <= vocab_size:
        return False
    probs = dict(zip(given.ids, given.probs, strict=True))
    is_whole = len(probs) == len(given.ids) and all(0 <= index(i) < vocab_size for i in probs)
    fair = all(0 <= prob <= 1 for prob in given.probs)  # false for a NaN
    return (
        is_whole
        and fair
        and abs(sum(given.probs) - 1) < _SUM_TOLERANCE
        and probs.get(token, 0.0) > 0
    )


def _checked_gains(gains: Sequence[float], num: int) -> tuple[tuple[float, ...], str]:
    """Return how likely each of the first `num` tokens is kept, as far as that is given."""
    kept = tuple(float(gain) for gain in gains[:num])
    if not kept:
        return (), ""
    if len(kept) < num or not all(0 <= gain <= 1 for gain in kept):
        return (), "`gains` are no probabilities"
    return kept, ""
