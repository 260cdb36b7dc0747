"""Decide which draft tokens stay: two verifiers that keep the target's distribution, for any tree.

`sample_and_match` compares drafts with the target's own sample; `recursive_rejection` is the
acceptance test of Leviathan et al. (arXiv 2211.17192), made recursive over siblings as in SpecInfer
(arXiv 2305.09781). docs/exactness.md has the rules that the comments name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from parallel.decoding.rng import Floats, Ints, Purpose, uniform
from parallel.decoding.sampling import Distribution, distribution, sample, truncate
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import (
    DraftTree,
    NodeKind,
    RngKey,
    SamplingParams,
    SparseProbs,
    Verdict,
    VerifierKind,
)

_SUM_TOLERANCE = 1e-3  # of probabilities that crossed the wire in single precision
_ROUNDING = 1e-9


class Verifier(Protocol):
    """The signature of every verifier; arguments as in `sample_and_match`."""

    def __call__(
        self,
        draft: DraftTree,
        rows: Sequence[ScoreRow],
        params: SamplingParams,
        key: RngKey,
        position: int,
        history: Sequence[int] = (),
    ) -> Verdict:
        """Decide which drafts stay."""
        ...


def sample_and_match(
    draft: DraftTree,
    rows: Sequence[ScoreRow],
    params: SamplingParams,
    key: RngKey,
    position: int,
    history: Sequence[int] = (),
) -> Verdict:
    """Keep the drafts that equal what the target samples anyway.

    At each node the target's token is drawn by `sample`; the child that holds it is accepted, and
    where there is none the same token is emitted (same-sample rule). The output is a function of
    only target, params and key, the same for every drafter, and exact however drafts were chosen.

    Args:
        draft: a tree, or a chain.
        rows: rows[0] scores the position after the last committed token, rows[i + 1] the one after
            node i. One for each node and the root; or one fewer, and then the last node is a leaf
            after which nothing is emitted (PEARL tests a block's first token so).
        params: how each row, the bonus token's too, becomes a distribution (same-transforms rule).
        key: names the request's noise.
        position: index in the output of the token that rows[0] scores.
        history: the tokens before that position, if `params.reads_history`; each node's
            own path is appended to it (own-prefix rule).

    Raises:
        ValueError: the number of rows does not fit the draft.
    """
    children = _children(draft, len(rows))
    prefix = _prefix(params, history)
    node, path = -1, list[int]()
    while node + 1 < len(rows):
        token = sample(rows[node + 1], params, key, position + len(path), prefix)
        match = next((c for c in children[node + 1] if draft.token_ids[c] == token), None)
        if match is None:
            return _verdict(path, token)
        node = _descend(match, path, prefix, draft)
    return _verdict(path, None)


def recursive_rejection(
    draft: DraftTree,
    rows: Sequence[ScoreRow],
    params: SamplingParams,
    key: RngKey,
    position: int,
    history: Sequence[int] = (),
) -> Verdict:
    """Accept each draft with the largest probability that keeps the target's distribution.

    Siblings are tested in order, each against what the earlier ones left of the target's
    distribution; the recovered or bonus token is drawn from what the last one left. Exact if each
    node was drawn as its kind states (actual-distribution rule); the output depends on the drafts,
    its distribution does not.

    Args:
        draft: as in `sample_and_match`, with the draft probabilities of each IID node.
        rows: as in `sample_and_match`.
        params: as in `sample_and_match`.
        key: as in `sample_and_match`; numbers ACCEPT (one a sibling) and RECOVER of each position
            are read, each once in a request's life (one-number rule).
        position: as in `sample_and_match`.
        history: as in `sample_and_match`.

    Raises:
        ValueError: the number of rows does not fit the draft, or a token cannot have been drawn
            from its draft probabilities.
    """
    children = _children(draft, len(rows))
    prefix = _prefix(params, history)
    node, path = -1, list[int]()
    while node + 1 < len(rows):
        here = position + len(path)
        target = distribution(rows[node + 1], params, prefix, here)
        match, left = _test_siblings(draft, children[node + 1], target, key, here)
        if match is None:
            return _verdict(path, _draw(left, uniform(key, here, Purpose.RECOVER)))
        node = _descend(match, path, prefix, draft)
    return _verdict(path, None)


def with_last_draft(verdict: Verdict, draft: DraftTree, num_rows: int) -> Verdict:
    """Return the verdict on a draft, given that on its scored nodes, by `sample_and_match`.

    They are all, or all but the last one: PEARL's newest draft may arrive during the target's
    forward, and stays if it is what the target draws after the nodes that stay.

    Args:
        verdict: on the scored nodes.
        draft: the whole draft.
        num_rows: as many as its nodes, or one more, as in `sample_and_match`.
    """
    last, end = len(draft) - 1, (-1, *verdict.accepted_nodes)[-1]
    if num_rows > len(draft) or draft.parents[last] != end:
        return verdict
    if draft.token_ids[last] != verdict.next_token:
        return verdict
    return _verdict([*verdict.accepted_nodes, last], None)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierEntry:
    """A verifier and what the leader must know of it."""

    verify: Verifier
    needs_draft_probs: bool
    """Whether it tests sampled drafts against the probabilities they were drawn from."""


_VERIFIERS = {
    VerifierKind.MATCH: VerifierEntry(verify=sample_and_match, needs_draft_probs=False),
    VerifierKind.REJECTION: VerifierEntry(verify=recursive_rejection, needs_draft_probs=True),
}


def verifier_of(kind: VerifierKind) -> VerifierEntry:
    """Return the verifier of this name."""
    return _VERIFIERS[kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceTest:
    """One acceptance test: how likely it passes, and what a failure leaves."""

    probability: float
    """Acceptance probability, at most 1; exactly 0 for a token the target cannot draw."""
    residual: Distribution | None
    """Distribution of the token after a rejection; None where acceptance is certain."""


def acceptance_test(target: Distribution, draft_probs: SparseProbs, token: int) -> AcceptanceTest:
    """Return the acceptance test of `token`, drawn from `draft_probs`, against the target.

    Algorithm 1 of Leviathan et al., arXiv 2211.17192: min(1, target / draft), then the positive
    part of target minus draft, normalized.

    Raises:
        ValueError: `draft_probs` is no distribution, or gives the token no probability.
    """
    ids, probs = _probs_arrays(draft_probs)
    drawn = np.flatnonzero(ids == token)
    if len(drawn) != 1 or probs[drawn[0]] <= 0:
        raise ValueError(f"token {token} cannot have been drawn from its draft probabilities")
    at = int(np.searchsorted(target.ids, token))
    known = at < len(target.ids) and target.ids[at] == token
    ratio = float(target.probs[at] / probs[drawn[0]]) if known else 0.0
    if ratio >= 1:
        return AcceptanceTest(probability=1.0, residual=None)
    residual = _residual(target, ids, probs)
    if residual is None:
        assert ratio > 1 - _ROUNDING, "no residual mass is left, yet acceptance was uncertain"
        return AcceptanceTest(probability=1.0, residual=None)
    return AcceptanceTest(probability=ratio, residual=residual)


def draft_token(
    row: ScoreRow,
    params: SamplingParams,
    key: RngKey,
    position: int,
    history: Sequence[int] = (),
) -> int:
    """Draft a POINT token for `sample_and_match`, coupled with the target's own sample.

    It is drawn as the target will draw, with the same noise, so that similar models mostly agree
    (Daliri, Musco, Suresh, arXiv 2408.07978).
    """
    return sample(row, params, key, position, history)


def draft_token_with_probs(
    row: ScoreRow,
    params: SamplingParams,
    key: RngKey,
    position: int,
    history: Sequence[int] = (),
    max_support: int = 64,
) -> tuple[int, SparseProbs]:
    """Draft an IID token for `recursive_rejection`, with the exact probabilities it was drawn from.

    The distribution is cut to its `max_support` best tokens, of ties the lowest ids, and
    renormalized before the draw: the wire stays short and the test stays exact.
    """
    drafter = truncate(distribution(row, params, history, position), max_support)
    token = _draw(drafter, uniform(key, position, Purpose.DRAFT))
    return token, SparseProbs(ids=tuple(drafter.ids.tolist()), probs=tuple(drafter.probs.tolist()))


def _children(draft: DraftTree, num_rows: int) -> list[list[int]]:
    """Return the root's children, then each node's."""
    if num_rows not in (len(draft), len(draft) + 1) or num_rows == 0:
        raise ValueError(f"{num_rows} rows do not score {len(draft)} draft tokens")
    children: list[list[int]] = [[] for _ in range(len(draft) + 1)]
    for node, parent in enumerate(draft.parents):
        children[parent + 1].append(node)
    return children


def _prefix(params: SamplingParams, history: Sequence[int]) -> list[int]:
    return list(history) if params.reads_history else []


def _descend(node: int, path: list[int], prefix: list[int], draft: DraftTree) -> int:
    path.append(node)
    prefix.append(draft.token_ids[node])
    return node


def _verdict(path: list[int], next_token: int | None) -> Verdict:
    return Verdict(num_accepted=len(path), next_token=next_token, accepted_nodes=tuple(path))


def _test_siblings(
    draft: DraftTree, siblings: Sequence[int], target: Distribution, key: RngKey, position: int
) -> tuple[int | None, Distribution]:
    """Return the first sibling that is accepted, or None and the distribution that is left."""
    left = target
    for rank, node in enumerate(siblings):
        test = acceptance_test(left, _draft_probs(draft, node), draft.token_ids[node])
        # Strictly below: a token of probability 0 must not pass on u = 0 (strict-acceptance rule).
        accepted = uniform(key, position, Purpose.ACCEPT, index=rank) < test.probability
        if accepted or test.residual is None:
            return node, left
        left = test.residual
    return None, left


def _draft_probs(draft: DraftTree, node: int) -> SparseProbs:
    """Return the distribution that a node was drawn from (actual-distribution rule).

    Raises:
        ValueError: its draft probabilities are missing.
    """
    if draft.kinds[node] is NodeKind.POINT:
        return SparseProbs(ids=(draft.token_ids[node],), probs=(1.0,))
    probs = draft.draft_probs[node]
    if probs is None:
        raise ValueError(f"draft node {node} lacks its draft probabilities")
    return probs


def _probs_arrays(given: SparseProbs) -> tuple[Ints, Floats]:
    ids, probs = np.array(given.ids, dtype=np.int64), np.array(given.probs, dtype=np.float64)
    total = float(probs.sum())
    if len(ids) != len(probs) or (probs < 0).any() or not abs(total - 1) <= _SUM_TOLERANCE:
        raise ValueError(f"draft probabilities of {len(ids)} tokens sum to {total}")
    return ids, probs / total


def _residual(target: Distribution, ids: Ints, probs: Floats) -> Distribution | None:
    """Return the positive part of target minus draft, normalized; None if nothing is left."""
    at = np.minimum(np.searchsorted(target.ids, ids), len(target.ids) - 1)
    common = target.ids[at] == ids
    left = target.probs.copy()
    left[at[common]] -= probs[common]
    positive = left > 0
    mass = left[positive].sum()
    if mass <= 0:
        return None
    return Distribution(ids=target.ids[positive], probs=left[positive] / mass)


def _draw(given: Distribution, number: float) -> int:
    """Draw by inversion; no token of the distribution has probability 0."""
    cumulative = np.cumsum(given.probs)
    at = np.searchsorted(cumulative, number * cumulative[-1], side="right")
    return int(given.ids[min(int(at), len(given.ids) - 1)])
