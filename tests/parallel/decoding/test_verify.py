"""Verifiers on toys, by exact enumeration; each exactness rule with a variant that breaks it."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from parallel.decoding import verify
from parallel.decoding.rng import Purpose, uniform
from parallel.decoding.sampling import Distribution, distribution, sample
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import (
    DraftTree,
    NodeKind,
    RngKey,
    SamplingParams,
    SparseProbs,
    Verdict,
)
from parallel.decoding.verify import (
    acceptance_test,
    draft_token_with_probs,
    recursive_rejection,
    sample_and_match,
    with_last_draft,
)
from tests.support.ragged_strategies import trees
from tests.support.verify_toys import (
    IID,
    SAMPLED,
    TOY3,
    TOY4,
    drawn_tree,
    exact,
    key,
    row,
    sparse,
    total_variation,
)


def enumerate_outputs(
    toy: tuple[Sequence[float], Sequence[float]], num: int, *, replaced: bool = True
) -> tuple[list[float], float]:
    """Return the output's distribution and the acceptance of `num` siblings tested as independent.

    They are drawn so too, or (not `replaced`) from what the earlier ones left.
    """
    target, drafter = toy
    out, accepted = [0.0] * len(target), 0.0

    def enumerate_siblings(tokens: tuple[int, ...], left: Distribution, weight: float) -> None:
        nonlocal accepted
        if len(tokens) == num:
            for token, prob in zip(left.ids.tolist(), left.probs.tolist(), strict=True):
                out[token] += weight * prob
            return
        taken = set() if replaced else set(tokens)
        mass = sum(prob for token, prob in enumerate(drafter) if token not in taken)
        for token in set(range(len(target))) - taken:
            drawing = weight * drafter[token] / mass
            test = acceptance_test(left, sparse(drafter), token)
            out[token] += drawing * test.probability
            accepted += drawing * test.probability
            if test.residual is not None:
                rejecting = drawing * (1 - test.probability)
                enumerate_siblings((*tokens, token), test.residual, rejecting)

    enumerate_siblings((), exact(target), 1.0)
    return out, accepted


@pytest.mark.parametrize(
    ("toy", "num", "acceptance"),
    [(TOY3, 1, 0.7), (TOY4, 1, 0.7), (TOY3, 2, 0.79), (TOY4, 2, 0.8050), (TOY4, 3, 0.87325)],
)
def test_recursive_rejection_keeps_the_targets_distribution_at_the_known_acceptance(
    toy: tuple[Sequence[float], Sequence[float]], num: int, acceptance: float
) -> None:
    out, accepted = enumerate_outputs(toy, num)
    assert out == pytest.approx(toy[0], abs=1e-12)
    assert accepted == pytest.approx(acceptance, abs=1e-6)


def test_a_point_draft_keeps_the_targets_distribution() -> None:
    for token in range(4):
        test = acceptance_test(exact(TOY4[0]), SparseProbs(ids=(token,), probs=(1.0,)), token)
        assert test.probability == pytest.approx(TOY4[0][token])
        assert test.residual is not None
        assert token not in test.residual.ids


def test_actual_distribution_rule_draws_without_replacement_are_not_independent() -> None:
    for num, distance in ((2, 0.00835), (3, 0.02143)):
        out, _ = enumerate_outputs(TOY4, num, replaced=False)
        assert total_variation(out, TOY4[0]) == pytest.approx(distance, abs=5e-6)


def test_no_peeking_rule_dropping_an_unlikely_draft_after_looking_is_biased() -> None:
    target, drafter = TOY4

    def output(keeps: Sequence[bool]) -> list[float]:
        """Return the distribution when a draft is tested only if its token is kept, else hidden."""
        out = [0.0] * 4
        for token in range(4):
            if not keeps[token]:
                out = [o + drafter[token] * p for o, p in zip(out, target, strict=True)]
                continue
            test = acceptance_test(exact(target), sparse(drafter), token)
            out[token] += drafter[token] * test.probability
            if test.residual is not None:
                left = drafter[token] * (1 - test.probability)
                for other, prob in zip(test.residual.ids, test.residual.probs, strict=True):
                    out[other] += left * prob
        return out

    dropped = output([q >= 0.2 for q in drafter])
    assert dropped == pytest.approx([0.4025, 0.195, 0.23, 0.1725])
    assert total_variation(dropped, target) == pytest.approx(0.105)
    assert output([True] * 4) == pytest.approx(target)  # stopping without a look: all or none
    assert output([False] * 4) == pytest.approx(target)


def _match_but_draw_again(
    draft: DraftTree, rows: Sequence[ScoreRow], params: SamplingParams, rng_key: RngKey
) -> Verdict:
    """Break the same-sample rule as REST does: throw the sample away where it does not match."""
    verdict = sample_and_match(draft, rows, params, rng_key, 0)
    if verdict.num_accepted:
        return verdict
    return Verdict(num_accepted=0, next_token=sample(rows[0], params, rng_key, 1_000_000))


def test_same_sample_rule_drawing_again_after_a_mismatch_is_caught() -> None:
    draft, rows = DraftTree.chain((1,)), [row(TOY3[0])] * 2

    def counts(broken: bool) -> list[int]:
        first = [0, 0, 0]
        for request in range(6000):
            if broken:
                verdict = _match_but_draw_again(draft, rows, SAMPLED, key(request))
            else:
                verdict = sample_and_match(draft, rows, SAMPLED, key(request), 0)
            emitted = verdict.next_token
            assert emitted is not None
            first[1 if verdict.num_accepted else emitted] += 1
        return first

    expected = np.array(TOY3[0]) * 6000
    assert chisquare(counts(broken=False), expected).pvalue > 1e-4
    broken = counts(broken=True)
    assert chisquare(broken, expected).pvalue < 1e-100
    assert total_variation([count / 6000 for count in broken], (0.42, 0.51, 0.07)) < 0.02


@pytest.mark.parametrize("verifier", [sample_and_match, recursive_rejection])
def test_same_transforms_rule_holds_for_the_bonus_token(
    verifier: verify.Verifier,
) -> None:
    params = SamplingParams(temperature=1.0, top_k=2)
    draft, rows = DraftTree.chain((0,)), [row((1.0, 0.0, 0.0)), row((0.4, 0.35, 0.25))]

    def bonuses(bonus_params: SamplingParams) -> set[int | None]:
        drawn = set()
        for request in range(200):
            verdict = verifier(draft, rows, params, key(request), 0)
            assert verdict.num_accepted == 1
            if bonus_params is not params:  # SWIFT's bonus: plain softmax of the logits
                verdict = verifier(DraftTree(), rows[1:], bonus_params, key(request), 1)
            drawn.add(verdict.next_token)
        return drawn

    assert bonuses(params) == {0, 1}
    assert bonuses(SAMPLED) == {0, 1, 2}


def _loosely_accepted(number: float, probability: float) -> bool:
    """Break the strict-acceptance rule as SWIFT and RAPID do."""
    return number <= probability


def test_strict_acceptance_rule_a_token_the_target_cannot_draw_is_never_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def zero_to_accept(
        rng_key: RngKey, position: int, purpose: Purpose, *, index: int = 0
    ) -> float:
        number = uniform(rng_key, position, purpose, index=index)
        return 0.0 if purpose is Purpose.ACCEPT else number

    rows = [row((0.0, 0.5, 0.5))] * 2
    draft = DraftTree.chain((0,), (sparse((1.0, 0.0, 0.0)),))
    monkeypatch.setattr(verify, "uniform", zero_to_accept)
    verdict = recursive_rejection(draft, rows, SAMPLED, key(0), 0)
    assert verdict.num_accepted == 0
    test = acceptance_test(distribution(rows[0], SAMPLED), sparse((1.0, 0.0, 0.0)), 0)
    assert test.probability == 0
    assert _loosely_accepted(0.0, test.probability)


def test_a_number_equal_to_the_ratio_rejects(monkeypatch: pytest.MonkeyPatch) -> None:
    ratio = acceptance_test(distribution(row(TOY3[0]), SAMPLED), sparse(TOY3[1]), 1).probability

    def accept_number(rng_key: RngKey, position: int, purpose: Purpose, *, index: int = 0) -> float:
        assert (rng_key, position, index) == (key(0), 0, 0)
        return ratio if purpose is Purpose.ACCEPT else 0.5

    monkeypatch.setattr(verify, "uniform", accept_number)
    draft = DraftTree.chain((1,), (sparse(TOY3[1]),))
    assert recursive_rejection(draft, [row(TOY3[0])], SAMPLED, key(0), 0).num_accepted == 0


@pytest.mark.parametrize("verifier", [sample_and_match, recursive_rejection])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_own_prefix_rule_each_node_is_penalised_by_its_own_prefix(
    verifier: verify.Verifier, temperature: float
) -> None:
    params = SamplingParams(temperature=temperature, repetition_penalty=50.0, top_k=1)
    rows = [row((0.5, 0.3, 0.2))] * 3
    history = [1]

    def path(draft: tuple[int, ...], seen: Sequence[int]) -> list[int]:
        verdict = verifier(DraftTree.chain(draft), rows, params, key(0), 0, seen)
        assert verdict.next_token is not None
        return [*draft[: verdict.num_accepted], verdict.next_token]

    alone: list[int] = []
    for position in range(2):
        alone.append(sample(rows[0], params, key(0), position, [*history, *alone]))
    assert alone == [0, 2]
    assert path((0, 2), history) == [0, 2, 0]  # all are penalised at the third
    assert path((0, 0), history) == alone
    flat = [sample(rows[0], params, key(0), p, history) for p in range(2)]
    assert flat != alone  # one prefix for every node: the broken variant


# --- trees ----------------------------------------------------------------------------------


@pytest.mark.parametrize("verifier", [sample_and_match, recursive_rejection])
def test_without_a_row_after_the_last_draft_nothing_follows_it(verifier: verify.Verifier) -> None:
    sure = row((0.0, 1.0))
    draft = DraftTree.chain((1, 1))
    full = verifier(draft, [sure] * 3, SAMPLED, key(0), 0)
    assert full == Verdict(num_accepted=2, next_token=1, accepted_nodes=(0, 1))
    short = verifier(draft, [sure] * 2, SAMPLED, key(0), 0)
    assert short == Verdict(num_accepted=2, next_token=None, accepted_nodes=(0, 1))
    wrong = verifier(DraftTree.chain((1, 0)), [sure] * 2, SAMPLED, key(0), 0)
    assert wrong == Verdict(num_accepted=1, next_token=1, accepted_nodes=(0,))
    empty = verifier(DraftTree(), [sure], SAMPLED, key(0), 0)
    assert empty == Verdict(num_accepted=0, next_token=1)


@pytest.mark.parametrize("verifier", [sample_and_match, recursive_rejection])
@pytest.mark.parametrize("num_rows", [0, 1, 4])
def test_rows_that_do_not_fit_are_rejected(verifier: verify.Verifier, num_rows: int) -> None:
    with pytest.raises(ValueError, match="do not score"):
        verifier(DraftTree.chain((1, 1)), [row((0.5, 0.5))] * num_rows, SAMPLED, key(0), 0)


def test_greedy_rejection_accepts_the_best_token_alone() -> None:
    rows, params = [row(TOY3[0])] * 3, SamplingParams()
    draft_probs = (sparse(TOY3[1]),) * 2
    verdict = recursive_rejection(DraftTree.chain((0, 1), draft_probs), rows, params, key(0), 0)
    assert (verdict.num_accepted, verdict.next_token) == (1, 0)


def test_drafts_of_an_equal_model_are_always_accepted() -> None:
    rows = [row(TOY4[0])] * 6
    for request in range(200):
        drawn = [draft_token_with_probs(rows[0], SAMPLED, key(request), i) for i in range(5)]
        draft = DraftTree.chain(tuple(t for t, _ in drawn), tuple(probs for _, probs in drawn))
        assert recursive_rejection(draft, rows, SAMPLED, key(request), 0).num_accepted == 5


@pytest.mark.parametrize(
    ("probs", "problem"),
    [
        (SparseProbs(ids=(1, 2), probs=(0.5, 0.5)), "cannot have been drawn"),
        (SparseProbs(ids=(0, 1), probs=(0.0, 1.0)), "cannot have been drawn"),
        (SparseProbs(ids=(0, 1), probs=(0.7, 0.7)), "sum to"),
        (SparseProbs(ids=(0, 1), probs=(-0.5, 1.5)), "sum to"),
        (SparseProbs(ids=(0,), probs=(0.5, 0.5)), "sum to"),
        (SparseProbs(ids=(0, 1), probs=(float("nan"), 1.0)), "sum to"),
    ],
)
def test_draft_probabilities_that_cannot_be_are_rejected(probs: SparseProbs, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        acceptance_test(exact(TOY3[0]), probs, 0)


def test_missing_draft_probabilities_are_rejected() -> None:
    draft = DraftTree(token_ids=(0,), parents=(-1,), kinds=(IID,), draft_probs=(None,))
    with pytest.raises(ValueError, match="lacks its draft probabilities"):
        recursive_rejection(draft, [row(TOY3[0])] * 2, SAMPLED, key(0), 0)


def test_no_number_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, Purpose, int]] = []

    def recorded(rng_key: RngKey, position: int, purpose: Purpose, *, index: int = 0) -> float:
        read.append((position, purpose, index))
        return uniform(rng_key, position, purpose, index=index)

    monkeypatch.setattr(verify, "uniform", recorded)
    for request in range(50):
        read.clear()
        recursive_rejection(drawn_tree(0), [row(TOY3[0])] * 7, SAMPLED, key(request), 10)
        assert len(set(read)) == len(read)
        assert all(a[0] <= b[0] for a, b in pairwise(read))


@pytest.mark.parametrize("replaced", [True, False])
def test_enumeration_covers_every_draw(*, replaced: bool) -> None:
    assert sum(enumerate_outputs(TOY3, 2, replaced=replaced)[0]) == pytest.approx(1)


@given(trees(7), st.data())
def test_a_verdict_on_the_scored_drafts_extends_to_one_that_arrives_later(
    parents: tuple[int, ...], data: st.DataObject
) -> None:
    num = len(parents)
    ids = data.draw(st.lists(st.integers(0, 2), min_size=num, max_size=num))
    draft = DraftTree(
        token_ids=tuple(ids),
        parents=parents,
        kinds=(NodeKind.POINT,) * num,
        draft_probs=(None,) * num,
    )
    drawn = data.draw(st.lists(st.integers(0, 2), min_size=num + 1, max_size=num + 1))
    rows = [ScoreRow(torch.tensor([1.0]), torch.tensor([token])) for token in drawn]
    greedy = SamplingParams()

    def verdict(on: DraftTree, num_rows: int) -> Verdict:
        return sample_and_match(on, rows[:num_rows], greedy, key(0), 0)

    scored = verdict(draft.first(num - 1), num)
    assert with_last_draft(scored, draft, num) == verdict(draft, num)
    assert with_last_draft(verdict(draft, num + 1), draft, num + 1) == verdict(draft, num + 1)
