"""Outputs end within their budget, and follow the target among tokens that leave enough room."""

from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from parallel.decoding.closing import Drawing, check_completion, closed, completion
from parallel.decoding.constraint import ConstraintBroken, MaskedRows, masked
from parallel.decoding.sampling import distribution
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import DraftTree, RngKey, SamplingParams, SparseProbs, VerifierKind
from parallel.decoding.verify import draft_token, draft_token_with_probs, verifier_of
from tests.support.automata import AutomatonState, any_of, either, many, seq, text, walked

END, OPEN, CLOSE, A, AB, COMMA = range(6)
TOKENS = (None, b"(", b")", b"a", b"ab", b",")
ITEM = seq(any_of("a"), many(any_of("ab")))
LANGUAGE = either(
    seq(text("("), ITEM, many(seq(text(","), ITEM)), text(")")),
    seq(text(",(("), ITEM, text("))")),
)
START = AutomatonState(LANGUAGE, TOKENS)
Words = tuple[int, ...]


@cache
def row(prefix: Words, *, drafter: bool = False) -> ScoreRow:
    rng = np.random.default_rng([len(prefix), *prefix, int(drafter)])
    return ScoreRow(torch.from_numpy(rng.normal(size=6)).float(), None)


def run(
    number: int,
    params: SamplingParams,
    *,
    most: int,
    verifier: VerifierKind = VerifierKind.MATCH,
    num_drafts: int = 2,
) -> tuple[Words, int]:
    """Return one output, and how many drafts were accepted."""
    key = RngKey(seed=5, request=number)
    path: Words = ()
    num_accepted = 0
    while END not in path and len(path) < most:
        state = walked(START, path)
        tokens: list[int] = []
        probs: list[SparseProbs] = []
        while len(tokens) < num_drafts and END not in tokens:
            scores, position = row((*path, *tokens), drafter=True), len(path) + len(tokens)
            if verifier is VerifierKind.REJECTION:
                token, drawn = draft_token_with_probs(scores, params, key, position)
                probs.append(drawn)
            else:
                token = draft_token(scores, params, key, position)
            tokens.append(token)
        draft = DraftTree.chain(tuple(tokens), tuple(probs))
        plain = [row((*path, *tokens[:depth])) for depth in range(len(draft) + 1)]
        rows = MaskedRows(plain, draft, state, (END,))
        verdict = verifier_of(verifier).verify(draft, rows, params, key, len(path))
        drawing = Drawing(rows=rows, params=params, key=key, position=len(path))
        verdict = closed(verdict, draft, drawing, state, num_left=most - len(path))
        num_accepted += verdict.num_accepted
        path += draft.token_ids[: verdict.num_accepted]
        path += () if verdict.next_token is None else (verdict.next_token,)
    end = path.index(END) + 1 if END in path else most
    return path[: min(end, most)], num_accepted


def exact(params: SamplingParams, most: int) -> dict[Words, float]:
    """The target's probabilities among the tokens after which some completion fits."""
    found: dict[Words, float] = {}

    def walk(path: Words, state: AutomatonState, prob: float) -> None:
        here = distribution(masked(row(path), state, (END,)), params)
        chances = {
            token: chance
            for token, chance in zip(here.ids.tolist(), here.probs.tolist(), strict=True)
            if token == END or state.advance(token).completion(most - len(path) - 1) is not None
        }
        total = sum(chances.values())
        for token, chance in chances.items():
            longer = (*path, token)
            if token == END or len(longer) == most:
                found[longer] = prob * chance / total
            else:
                walk(longer, state.advance(token), prob * chance / total)

    walk((), START, 1.0)
    return found


SAMPLED = SamplingParams(temperature=1.0, end_ids=(END,))


@pytest.mark.parametrize("most", [3, 4, 5, 6, 9])
@pytest.mark.parametrize("verifier", VerifierKind)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_output_is_complete_within_its_budget(
    most: int, verifier: VerifierKind, temperature: float
) -> None:
    params = SamplingParams(temperature=temperature, end_ids=(END,))
    for number in range(40):
        output, _ = run(number, params, most=most, verifier=verifier)
        assert len(output) <= most
        assert walked(START, [token for token in output if token != END]).is_complete


def test_without_it_outputs_are_cut() -> None:
    ends = []
    for number in range(40):
        state = START
        path: Words = ()
        for position in range(4):
            key = RngKey(seed=5, request=number)
            token = draft_token(masked(row(path), state, (END,)), SAMPLED, key, position)
            if token == END:
                break
            state, path = state.advance(token), (*path, token)
        ends.append(state.is_complete)
    assert not all(ends)


@pytest.mark.parametrize("verifier", VerifierKind)
def test_outputs_follow_the_target_among_tokens_that_leave_room(verifier: VerifierKind) -> None:
    expected = exact(SAMPLED, 5)
    assert sum(expected.values()) == pytest.approx(1)
    num = 400
    outputs = [run(number, SAMPLED, most=5, verifier=verifier) for number in range(num)]
    assert sum(accepted for _, accepted in outputs) > num / 4  # speculation is active
    counts = Counter(output for output, _ in outputs)
    assert set(counts) <= set(expected)
    likely = [path for path, prob in expected.items() if num * prob >= 5]
    found = [counts[path] for path in likely]
    rest = num - sum(found)
    wanted = [num * expected[path] for path in likely]
    if num - sum(wanted) >= 5:
        found, wanted = [*found, rest], [*wanted, num - sum(wanted)]
    assert rest <= 30
    total = sum(found)
    assert chisquare(found, [one * total / sum(wanted) for one in wanted]).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_change_no_token(temperature: float) -> None:
    params = SamplingParams(temperature=temperature, end_ids=(END,))
    for number in range(40):
        for most in (3, 5, 8):
            alone, _ = run(number, params, most=most, num_drafts=0)
            assert run(number, params, most=most, num_drafts=3)[0] == alone


def test_where_no_best_token_leaves_room_the_known_completion_is_taken() -> None:
    class Forgetful:
        """Knows the completion of one output alone."""

        def __init__(self, inner: AutomatonState, known: Sequence[int] | None) -> None:
            self._inner, self._known = inner, known
            self.is_complete, self.mask, self.forced = inner.is_complete, inner.mask, inner.forced

        def advance(self, token: int) -> "Forgetful":
            return Forgetful(self._inner.advance(token), None)

        def completion(self, most: int) -> tuple[int, ...] | None:
            fits = self._known is not None and len(self._known) <= most
            return tuple(self._known) if fits and self._known is not None else None

    state = Forgetful(START, (OPEN, AB, CLOSE))
    rows = MaskedRows([row(())], DraftTree(), state, (END,))
    key = RngKey(seed=0, request=0)
    verdict = verifier_of(VerifierKind.MATCH).verify(DraftTree(), rows, SAMPLED, key, 0)
    drawing = Drawing(rows=rows, params=SAMPLED, key=key, position=0)
    taken = closed(verdict, DraftTree(), drawing, state, num_left=3)
    assert (taken.num_accepted, taken.next_token) == (0, OPEN)
    with pytest.raises(ConstraintBroken, match="no completion of at most 2 tokens"):
        closed(verdict, DraftTree(), drawing, state, num_left=2)


def test_a_constraint_without_completions_has_none() -> None:
    assert completion(START, 3) == (OPEN, A, CLOSE)
    assert completion(START, 2) is None
    check_completion(START, 3)
    with pytest.raises(ConstraintBroken, match=r"leaves 2 tokens: the shortest .* has 3"):
        check_completion(START, 2)

    class Masks:
        is_complete, mask, advance, forced = True, START.mask, START.advance, START.forced

    assert completion(Masks(), 100) is None
    with pytest.raises(ConstraintBroken, match="no text that completes the output was found"):
        check_completion(Masks(), 100)
