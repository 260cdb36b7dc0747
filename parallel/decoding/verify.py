"""Decide which draft tokens stay: two verifiers that keep the target's distribution, for any tree.

`sample_and_match` compares drafts with the target's own sample; `recursive_rejection` is the
acceptance test of Leviathan et al. (arXiv 2211.17192), made recursive over siblings as in SpecInfer
(arXiv 2305.09781) and, without replacement, in Recursive Speculative Decoding (arXiv 2402.14160).
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
)

_SUM_TOLERANCE = 1e-3  # of a law that crossed the wire in single precision
_ROUNDING = 1e-9


class Verifier(Protocol):
    """The shape of both verifiers; arguments as in `sample_and_match`."""

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
    where there is none the same token is emitted (rule R4). The output is a function of target,
    params and key alone, the same for every drafter, and exact however the drafts were chosen.

    Args:
        draft: a tree, or a chain.
        rows: rows[0] scores the position after the last committed token, rows[i + 1] the one after
            node i. One for each node and the root; or one fewer, and then the last node is a leaf
            after which nothing is emitted (PEARL tests a block's first token so).
        params: how each row, the bonus token's too, becomes a distribution (rule R5).
        key: names the request's noise.
        position: index in the output of the token that rows[0] scores.
        history: the tokens before that position, if `params` penalises repetition; each node's
            own path is appended to it (rule R7).

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

    Siblings are tested in order, each against what the earlier ones left of the target's law; the
    recovered or bonus token is drawn from what the last one left. Exact if each node was drawn as
    its kind says (rule R2); the output depends on the drafts, the distribution does not.

    Args:
        draft: as in `sample_and_match`, with the law of each node that is not a POINT.
        rows: as in `sample_and_match`.
        params: as in `sample_and_match`.
        key: as in `sample_and_match`; numbers ACCEPT (one a sibling) and RECOVER of each position
            are read, each once in a request's life (rule R1).
        position: as in `sample_and_match`.
        history: as in `sample_and_match`.

    Raises:
        ValueError: the number of rows does not fit the draft, or a law cannot have drawn its token.
    """
    children = _children(draft, len(rows))
    prefix = _prefix(params, history)
    node, path = -1, list[int]()
    while node + 1 < len(rows):
        law = distribution(rows[node + 1], params, prefix)
        here = position + len(path)
        match, law = _test_siblings(draft, children[node + 1], law, key, here)
        if match is None:
            return _verdict(path, _draw(law, uniform(key, here, Purpose.RECOVER)))
        node = _descend(match, path, prefix, draft)
    return _verdict(path, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceTest:
    """One acceptance test: how likely it passes, and what a failure leaves."""

    probability: float
    """Acceptance probability, at most 1; exactly 0 for a token the target cannot draw."""
    residual: Distribution | None
    """The law of the token after a rejection; None where acceptance is certain."""


def acceptance_test(target: Distribution, draft_law: SparseProbs, token: int) -> AcceptanceTest:
    """Return the acceptance test of `token`, drawn from `draft_law`, against the target's law.

    Algorithm 1 of Leviathan et al., arXiv 2211.17192: min(1, target / draft), then the positive
    part of target minus draft, normalised.

    Raises:
        ValueError: the law is no distribution, or gives the token no probability.
    """
    ids, probs = _law_arrays(draft_law)
    drawn = np.flatnonzero(ids == token)
    if len(drawn) != 1 or probs[drawn[0]] <= 0:
        raise ValueError(f"token {token} cannot have been drawn from its draft law")
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


def sibling_law(draft: DraftTree, node: int, earlier: Sequence[int]) -> SparseProbs:
    """Return the law that `node` was really drawn from, given its earlier siblings (rule R2).

    Raises:
        ValueError: the node's law is missing, or the earlier siblings exhaust it.
    """
    if draft.kinds[node] is NodeKind.POINT:
        return SparseProbs(ids=(draft.token_ids[node],), probs=(1.0,))
    law = draft.draft_probs[node]
    if law is None:
        raise ValueError(f"draft node {node} of kind {draft.kinds[node]} lacks its law")
    if draft.kinds[node] is NodeKind.IID or not earlier:
        return law
    taken = {draft.token_ids[sibling] for sibling in earlier}
    left = [(i, p) for i, p in zip(law.ids, law.probs, strict=True) if i not in taken]
    total = sum(p for _, p in left)
    if total <= 0:
        raise ValueError(f"the siblings before draft node {node} exhaust its law")
    return SparseProbs(ids=tuple(i for i, _ in left), probs=tuple(p / total for _, p in left))


def draft_token(
    row: ScoreRow,
    params: SamplingParams,
    key: RngKey,
    position: int,
    history: Sequence[int] = (),
) -> int:
    """Draft a POINT token for `sample_and_match`, coupled with the target's own sample.

    It is drawn as the target will draw, with the same noise, so that similar laws mostly agree
    (Daliri, Musco, Suresh, arXiv 2408.07978).
    """
    return sample(row, params, key, position, history)


def draft_token_with_law(
    row: ScoreRow,
    params: SamplingParams,
    key: RngKey,
    position: int,
    history: Sequence[int] = (),
    max_support: int = 64,
) -> tuple[int, SparseProbs]:
    """Draft an IID token for `recursive_rejection`, with the exact law it was drawn from.

    The law is cut to its `max_support` best tokens, of ties the lowest ids, and renormalised before
    the draw: the wire stays short and the test stays exact.
    """
    law = truncate(distribution(row, params, history), max_support)
    token = _draw(law, uniform(key, position, Purpose.DRAFT))
    return token, SparseProbs(ids=tuple(law.ids.tolist()), probs=tuple(law.probs.tolist()))


def _children(draft: DraftTree, num_rows: int) -> list[list[int]]:
    """Return the root's children, then each node's."""
    if num_rows not in (len(draft), len(draft) + 1) or num_rows == 0:
        raise ValueError(f"{num_rows} rows do not score {len(draft)} draft tokens")
    children: list[list[int]] = [[] for _ in range(len(draft) + 1)]
    for node, parent in enumerate(draft.parents):
        children[parent + 1].append(node)
    return children


def _prefix(params: SamplingParams, history: Sequence[int]) -> list[int]:
    return list(history) if params.repetition_penalty != 1 else []


def _descend(node: int, path: list[int], prefix: list[int], draft: DraftTree) -> int:
    path.append(node)
    prefix.append(draft.token_ids[node])
    return node


def _verdict(path: list[int], next_token: int | None) -> Verdict:
    return Verdict(num_accepted=len(path), next_token=next_token, accepted_nodes=tuple(path))


def _test_siblings(
    draft: DraftTree, siblings: Sequence[int], law: Distribution, key: RngKey, position: int
) -> tuple[int | None, Distribution]:
    """Return the first sibling that is accepted, or None and the law that is left."""
    for rank, node in enumerate(siblings):
        draft_law = sibling_law(draft, node, siblings[:rank])
        test = acceptance_test(law, draft_law, draft.token_ids[node])
        # Strictly below: a token of probability 0 must not pass on u = 0 (rule R6).
        accepted = uniform(key, position, Purpose.ACCEPT, index=rank) < test.probability
        if accepted or test.residual is None:
            return node, law
        law = test.residual
    return None, law


def _law_arrays(law: SparseProbs) -> tuple[Ints, Floats]:
    ids, probs = np.array(law.ids, dtype=np.int64), np.array(law.probs, dtype=np.float64)
    total = float(probs.sum())
    if len(ids) != len(probs) or (probs < 0).any() or not abs(total - 1) <= _SUM_TOLERANCE:
        raise ValueError(f"a draft law of {len(ids)} tokens sums to {total}")
    return ids, probs / total


def _residual(target: Distribution, ids: Ints, probs: Floats) -> Distribution | None:
    """Return the positive part of target minus draft, normalised; None if nothing is left."""
    at = np.minimum(np.searchsorted(target.ids, ids), len(target.ids) - 1)
    common = target.ids[at] == ids
    left = target.probs.copy()
    left[at[common]] -= probs[common]
    positive = left > 0
    mass = left[positive].sum()
    if mass <= 0:
        return None
    return Distribution(ids=target.ids[positive], probs=left[positive] / mass)


def _draw(law: Distribution, number: float) -> int:
    """Draw by inversion; `law` has no token of probability 0."""
    cumulative = np.cumsum(law.probs)
    at = np.searchsorted(cumulative, number * cumulative[-1], side="right")
    return int(law.ids[min(int(at), len(law.ids) - 1)])
