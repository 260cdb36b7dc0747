"""The toy: five tokens, an automaton as the constraint, and an exactly known constrained target."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from parallel.decoding.constraint import (
    ConstraintBroken,
    ConstraintState,
    MaskedRows,
    after,
    legal_tokens,
    masked,
)
from parallel.decoding.sampling import distribution
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import DraftTree, RngKey, SamplingParams, SparseProbs, VerifierKind
from parallel.decoding.verify import draft_token, draft_token_with_probs, verifier_of
from tests.support.automata import AutomatonState, either, text, walked

END, A, B, AB, C = range(5)
TOKENS = (None, b"a", b"b", b"ab", b"c")
LANGUAGE = either(text("aba"), text("abc"), text("ba"), text("c"))
START = AutomatonState(LANGUAGE, TOKENS)
SAMPLED = SamplingParams(temperature=1.0, end_ids=(END,))
GREEDY = SamplingParams(end_ids=(END,))
NUM_REQUESTS = 1000
Words = tuple[int, ...]
Rows = Callable[[Sequence[ScoreRow], DraftTree, ConstraintState], Sequence[ScoreRow]]


@cache
def row(prefix: Words, *, drafter: bool = False) -> ScoreRow:
    """Return the toy's logits after a prefix; the drafter likes other tokens."""
    rng = np.random.default_rng([len(prefix), *prefix, int(drafter)])
    return ScoreRow(torch.from_numpy(rng.normal(size=5)).float(), None)


def exact() -> dict[Words, float]:
    """Return the probability of each output of the constrained target alone."""
    found: dict[Words, float] = {}

    def walk(path: Words, state: ConstraintState, prob: float) -> None:
        here = distribution(masked(row(path), state, (END,)), SAMPLED)
        for token, chance in zip(here.ids.tolist(), here.probs.tolist(), strict=True):
            if token == END:
                found[path] = prob * chance
            else:
                walk((*path, token), state.advance(token), prob * chance)

    walk((), START, 1.0)
    return found


@dataclass(frozen=True)
class Way:
    """How drafts are made and rows masked."""

    verifier: VerifierKind
    knows: bool = True
    """Whether the drafter draws under the mask."""
    rows: Rows = lambda rows, draft, state: MaskedRows(rows, draft, state, (END,))
    drops: bool = False
    """Whether illegal drafts are dropped once they are drawn."""


def draft_of(path: Words, state: ConstraintState, key: RngKey, way: Way) -> DraftTree:
    """Draft two tokens after a path."""
    tokens: list[int] = []
    probs: list[SparseProbs] = []
    here: ConstraintState | None = state
    for _ in range(2):
        scores = row((*path, *tokens), drafter=True)
        if way.knows:
            scores = masked(scores, here, (END,))
        position = len(path) + len(tokens)
        if way.verifier is VerifierKind.REJECTION:
            token, drawn_from = draft_token_with_probs(scores, SAMPLED, key, position)
            probs.append(drawn_from)
        else:
            token = draft_token(scores, SAMPLED, key, position)
        try:
            here = after(here, token, (END,))
        except ConstraintBroken:
            if way.drops:
                return DraftTree.chain(tuple(tokens), tuple(probs[: len(tokens)]))
            here = None
        tokens.append(token)
    return DraftTree.chain(tuple(tokens), tuple(probs))


def run(number: int, way: Way) -> tuple[Words, int]:
    """Return one output, and how many drafts were accepted."""
    key = RngKey(seed=7, request=number)
    path: Words = ()
    num_accepted = 0
    while END not in path:
        state = walked(START, path)
        draft = draft_of(path, state, key, way)
        plain = [row((*path, *draft.token_ids[:depth])) for depth in range(len(draft) + 1)]
        rows = way.rows(plain, draft, state)
        verdict = verifier_of(way.verifier).verify(draft, rows, SAMPLED, key, len(path))
        num_accepted += verdict.num_accepted
        assert verdict.next_token is not None
        path += (*draft.token_ids[: verdict.num_accepted], verdict.next_token)
    return path[: path.index(END)], num_accepted


def p_value(way: Way) -> float:
    expected = exact()
    outputs = [run(number, way) for number in range(NUM_REQUESTS)]
    counts = Counter(output for output, _ in outputs)
    assert sum(accepted for _, accepted in outputs) > NUM_REQUESTS / 2  # speculation is active
    if set(counts) - set(expected):
        return 0.0
    found = [counts[output] for output in expected]
    return float(chisquare(found, [NUM_REQUESTS * prob for prob in expected.values()]).pvalue)


def test_the_toy_has_every_spelling_of_every_word() -> None:
    words = exact()
    assert sum(words.values()) == pytest.approx(1)
    assert set(words) == {(A, B, A), (A, B, C), (AB, A), (AB, C), (B, A), (C,)}


@pytest.mark.parametrize("knows", [True, False])
@pytest.mark.parametrize("verifier", VerifierKind)
def test_outputs_follow_the_constrained_target(verifier: VerifierKind, *, knows: bool) -> None:
    assert p_value(Way(verifier, knows=knows)) > 1e-3


@pytest.mark.parametrize("verifier", VerifierKind)
def test_the_mask_of_the_roots_prefix_for_all_nodes_is_detected(verifier: VerifierKind) -> None:
    def broken(
        rows: Sequence[ScoreRow], _: DraftTree, state: ConstraintState
    ) -> Sequence[ScoreRow]:
        return [masked(one, state, (END,)) for one in rows]

    def stops(number: int) -> Words:
        try:
            return run(number, Way(verifier, rows=broken))[0]
        except ConstraintBroken:  # an illegal output, which the next round finds
            return (END,)

    outputs = Counter(stops(number) for number in range(200))
    assert set(outputs) - set(exact())


def test_dropping_illegal_drafts_once_they_are_drawn_is_detected() -> None:
    way = Way(VerifierKind.REJECTION, knows=False, drops=True)
    assert p_value(way) < 1e-6


def test_rows_of_a_tree_are_masked_by_the_path_of_their_own_node() -> None:
    draft = DraftTree(
        token_ids=(A, AB, B, C, END),
        parents=(-1, -1, 0, 1, 3),
        kinds=DraftTree.chain((A,) * 5).kinds,
        draft_probs=(None,) * 5,
    )
    rows = MaskedRows([row(())] * 6, draft, START, (END,))
    legal = [set(torch.isfinite(one.logits).nonzero().flatten().tolist()) for one in rows]
    assert legal == [{A, B, AB, C}, {B}, {A, C}, {A, C}, {END}, {END, A, B, AB, C}]
    assert len(rows[1:3]) == 2


def test_a_row_after_an_illegal_token_is_refused() -> None:
    rows = MaskedRows([row(())] * 2, DraftTree.chain((END,)), START, (END,))
    with pytest.raises(ConstraintBroken, match="before it is complete"):
        rows[1]
    rows = MaskedRows([row(())] * 2, DraftTree.chain((A,)), walked(START, [C]), (END,))
    with pytest.raises(ConstraintBroken):
        rows[1]


def test_every_end_token_is_legal_exactly_where_the_output_is_complete() -> None:
    assert not legal_tokens(START, (END, C), 5)[[END, C]].any()
    assert legal_tokens(walked(START, [C]), (END, C), 5).tolist() == [True, 0, 0, 0, True]
    with pytest.raises(ConstraintBroken, match="no token that may follow"):
        legal_tokens(walked(START, [C]), (), 5)


def test_a_mask_of_another_size_rules_out_the_tokens_it_does_not_know() -> None:
    assert legal_tokens(START, (END,), 7).tolist() == [False, True, True, True, True, False, False]
    assert legal_tokens(START, (END,), 2).tolist() == [False, True]


def test_a_row_without_a_finite_legal_score_is_refused() -> None:
    scores = torch.tensor([1.0, -torch.inf, 1.0, -torch.inf, -torch.inf])
    state = walked(START, [AB])
    with pytest.raises(ConstraintBroken, match="finite"):
        masked(ScoreRow(scores, None), state, (END,))


def test_greedy_output_takes_the_best_legal_token() -> None:
    scores = torch.tensor([9.0, 1.0, 2.0, 8.0, 7.0])
    verdict = verifier_of(VerifierKind.MATCH).verify(
        DraftTree.chain((END, A)),
        MaskedRows([ScoreRow(scores, None)] * 3, DraftTree.chain((END, A)), START, (END,)),
        GREEDY,
        RngKey(seed=0, request=0),
        0,
    )
    assert (verdict.num_accepted, verdict.next_token) == (0, AB)
