"""Verifiers on trees, by enumeration and chi-square tests on toys."""

import numpy as np
from scipy.stats import chisquare

from parallel.decoding import verify
from parallel.decoding.rng import Purpose, uniform
from parallel.decoding.sampling import sample
from parallel.decoding.types import (
    DraftTree,
)
from parallel.decoding.verify import (
    recursive_rejection,
    sample_and_match,
)
from tests.support.verify_toys import (
    POINT,
    SAMPLED,
    TOY3,
    TOY4,
    drawn_tree,
    key,
    pick,
    row,
    siblings,
    total_variation,
)

TREE = DraftTree(  # two children each, two levels
    token_ids=(0, 1, 2, 0, 1, 2),
    parents=(-1, -1, 0, 0, 1, 1),
    kinds=(POINT,) * 6,
    draft_probs=(None,) * 6,
)
MARKOV = ((0.6, 0.3, 0.1), (0.2, 0.2, 0.6), (0.5, 0.25, 0.25))  # next token by the last one


def test_sample_and_match_follows_the_target_through_a_tree() -> None:
    rows = [row(MARKOV[0])] + [row(MARKOV[token]) for token in TREE.token_ids]
    seen = set()
    for request in range(300):
        tokens = [0]
        for position in range(3):
            tokens.append(sample(row(MARKOV[tokens[-1]]), SAMPLED, key(request), position))
        verdict = sample_and_match(TREE, rows, SAMPLED, key(request), 0)
        path = [TREE.token_ids[node] for node in verdict.accepted_nodes]
        assert len(path) == verdict.num_accepted
        assert [*path, verdict.next_token] == tokens[1 : len(path) + 2]
        parents = [TREE.parents[node] for node in verdict.accepted_nodes]
        assert parents == [-1, *verdict.accepted_nodes][: len(path)]
        seen.add(verdict.accepted_nodes)
    assert len(seen) == 7  # every path, the empty one included


def test_coupled_drafts_are_accepted_more_often_than_independent_ones() -> None:
    target, drafter = (row(probs) for probs in TOY3)
    hits = sum(
        verify.draft_token(drafter, SAMPLED, key(i), 0) == sample(target, SAMPLED, key(i), 0)
        for i in range(3000)
    )
    shared = 1 - total_variation(*TOY3)
    bound = shared / (2 - shared)  # (1 - TV) / (1 + TV), Daliri et al.
    assert hits / 3000 > bound - 0.03
    assert hits / 3000 > sum(p * q for p, q in zip(*TOY3, strict=True)) + 0.1


def test_sampled_trees_keep_the_distribution_of_both_levels() -> None:
    acceptance = 0.79
    num, rows = 5000, [row(TOY3[0])] * 7
    first, second, accepted = np.zeros(3), np.zeros(3), 0
    for request in range(num):
        draft = drawn_tree(request)
        verdict = recursive_rejection(draft, rows, SAMPLED, key(request), 10)
        assert verdict.next_token is not None
        tokens = [draft.token_ids[n] for n in verdict.accepted_nodes] + [verdict.next_token]
        first[tokens[0]] += 1
        if verdict.num_accepted:
            accepted += 1
            second[tokens[1]] += 1
    assert chisquare(first, np.array(TOY3[0]) * num).pvalue > 1e-4
    assert chisquare(second, np.array(TOY3[0]) * accepted).pvalue > 1e-4
    deviation = (acceptance * (1 - acceptance) / num) ** 0.5
    assert abs(accepted / num - acceptance) < 4 * deviation


def test_sampled_trees_believed_independent_are_caught_by_the_same_test() -> None:
    num, rows = 5000, [row(TOY4[0])]
    counts = np.zeros(4)
    for request in range(num):  # weight 3 siblings, distance .02143, into one cell each
        drafter = np.array(TOY4[1])
        tokens: list[int] = []
        for rank in range(3):
            tokens.append(pick(drafter, uniform(key(request), 0, Purpose.DRAFT, index=rank)))
            drafter[tokens[-1]] = 0
        draft = siblings(tokens, TOY4[1])
        verdict = recursive_rejection(draft, rows * 4, SAMPLED, key(request), 0)
        token = (
            draft.token_ids[verdict.accepted_nodes[0]]
            if verdict.num_accepted
            else verdict.next_token
        )
        assert token is not None
        counts[token] += 1
    assert chisquare(counts, np.array(TOY4[0]) * num).pvalue < 1e-4
