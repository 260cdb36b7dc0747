"""Aligned samples of toys whose outputs can be listed approach the model's own probabilities."""

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

from parallel.decoding.alignment import LearnedFutures
from parallel.decoding.constraint import MaskedRows
from parallel.decoding.expected_futures import FutureTree
from parallel.decoding.sampling import sample
from parallel.decoding.types import (
    ConstraintKind,
    ConstraintSpec,
    DraftTree,
    RngKey,
    SamplingParams,
    SparseProbs,
    VerifierKind,
)
from parallel.decoding.verify import draft_token, draft_token_with_probs, verifier_of
from tests.support.aligned_toys import (
    END,
    Reference,
    Toy,
    Words,
    conditional,
    divergence,
    dyck_words,
    explore,
    fair_bits,
    rows_after,
    sampled_from,
)
from tests.support.automata import walked

MATCH, REJECTION = VerifierKind.MATCH, VerifierKind.REJECTION
ALIGNED = ConstraintSpec(kind=ConstraintKind.REGEX, text="a", align=True)


def drafted(toy: Toy, path: Words, key: RngKey, verifier: VerifierKind) -> DraftTree:
    """Draft two tokens after a path, from the model without constraint and futures."""
    tokens: list[int] = []
    probs: list[SparseProbs] = []
    while len(tokens) < 2 and END not in tokens:
        row, position = toy.row((*path, *tokens)), len(path) + len(tokens)
        if verifier is REJECTION:
            token, drawn_from = draft_token_with_probs(row, toy.sampling, key, position)
            probs.append(drawn_from)
        else:
            token = draft_token(row, toy.sampling, key, position)
        tokens.append(token)
    return DraftTree.chain(tuple(tokens), tuple(probs))


def run(
    toy: Toy,
    tree: FutureTree,
    number: int,
    *,
    verifier: VerifierKind = MATCH,
    drafts: bool = True,
    aligns: bool = True,
    learns: bool = True,
) -> tuple[Words, int]:
    """Return one output, and how many drafts were accepted."""
    key = RngKey(seed=1, request=number)
    path: Words = ()
    num_accepted = 0
    while END not in path:
        state = walked(toy.start, path)
        draft = drafted(toy, path, key, verifier) if drafts else DraftTree()
        rows = rows_after(toy, path, state, draft, tree)
        plain = [toy.row((*path, *draft.token_ids[:depth])) for depth in range(len(draft) + 1)]
        read = rows if aligns else MaskedRows(plain, draft, state, (END,))
        verdict = verifier_of(verifier).verify(draft, read, toy.sampling, key, len(path))
        if learns:
            rows.learn(verdict, (END,))
        num_accepted += verdict.num_accepted
        path += draft.token_ids[: verdict.num_accepted]
        path += () if verdict.next_token is None else (verdict.next_token,)
    return path[: path.index(END)], num_accepted


@pytest.mark.parametrize("verifier", VerifierKind)
def test_fair_bits_get_the_probability_that_they_have_among_legal_outputs(
    verifier: VerifierKind,
) -> None:
    toy, tree, zeros = fair_bits(), FutureTree(), (1,) * 5
    assert conditional(toy)[zeros] == pytest.approx(1 / 17)
    assert sampled_from(toy, tree)[zeros] == pytest.approx(0.5)  # the mask alone
    for number in range(50):
        run(toy, tree, number, verifier=verifier)
    assert sampled_from(toy, tree)[zeros] == pytest.approx(0.0588, abs=0.005)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_balanced_brackets_approach_the_models_own_probabilities(temperature: float) -> None:
    toy, tree = dyck_words(temperature=temperature), FutureTree()
    true = conditional(toy)
    assert len(true) == 23
    found = []
    for number in range(201):
        if number in (0, 50, 200):
            found.append(divergence(true, sampled_from(toy, tree)))
        run(toy, tree, number, drafts=False)
    assert found[0] > 0.05
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.01


@pytest.mark.parametrize("aligns", [True, False])
@pytest.mark.parametrize("verifier", VerifierKind)
def test_speculative_samples_follow_the_models_own_probabilities(
    verifier: VerifierKind, *, aligns: bool
) -> None:
    toy, tree = dyck_words(), FutureTree()
    true = conditional(toy)
    explore(toy, tree)
    assert sampled_from(toy, tree) == pytest.approx(true)
    num = 300
    options = {"verifier": verifier, "aligns": aligns, "learns": False}
    outputs = [run(toy, tree, 1000 + number, **options) for number in range(num)]  # type: ignore[arg-type]  # flags and a kind
    assert sum(accepted for _, accepted in outputs) > num / 4  # speculation is active
    counts = Counter(output for output, _ in outputs)
    likely = [path for path, prob in true.items() if num * prob >= 5]
    found = [counts[path] for path in likely]
    rest = num - sum(found)
    expected = [num * true[path] for path in likely]
    p_value = chisquare([*found, rest], [*expected, num - sum(expected)]).pvalue
    assert p_value > 1e-3 if aligns else p_value < 1e-6


@pytest.mark.parametrize("drafts", [True, False])
def test_every_sample_is_that_of_the_algorithm_by_its_definition(*, drafts: bool) -> None:
    toy, tree = dyck_words(temperature=0.8), FutureTree()
    reference = Reference(toy.temperature, (END,))
    num_accepted = 0
    for number in range(60):
        path: Words = ()
        key = RngKey(seed=1, request=number)
        while path[-1:] != (END,):
            state = walked(toy.start, path)
            row = reference.weighed(path, toy.row(path).logits, state)
            path += (sample(row, toy.sampling, key, len(path)),)
        output, accepted = run(toy, tree, number, drafts=drafts)
        assert output == path[:-1]
        num_accepted += accepted
    assert (num_accepted > 20) == drafts


def test_rows_of_a_draft_are_weighed_by_the_path_of_their_own_node() -> None:
    toy, tree = fair_bits(), FutureTree()
    for number in range(50):
        run(toy, tree, number)
    draft = DraftTree(
        token_ids=(1, 2, 2),
        parents=(-1, -1, 1),
        kinds=(DraftTree.chain((1,)).kinds[0],) * 3,
        draft_probs=(None,) * 3,
    )
    plain = [toy.row(()), toy.row((1,)), toy.row((2,)), toy.row((2, 2))]
    rows = rows_after(toy, (), toy.start, draft, tree)
    rows._plain, rows._masked = plain, MaskedRows(plain, draft, toy.start, (END,))
    probs = [one.logits.softmax(0).tolist() for one in rows]
    assert probs[0] == pytest.approx([0, 1 / 17, 16 / 17])
    assert probs[1] == pytest.approx([0, 1, 0])
    assert probs[2] == pytest.approx([0, 0.5, 0.5])
    assert len(rows[1:3]) == 2


def test_what_a_prefix_that_is_unknown_to_the_tree_follows_is_masked_alone() -> None:
    toy, tree = fair_bits(), FutureTree()
    rows = rows_after(toy, (2, 1), walked(toy.start, (2, 1)), DraftTree(), tree)
    assert rows[0].logits.softmax(0).tolist() == pytest.approx([0, 0.5, 0.5])
    verdict = verifier_of(MATCH).verify(
        DraftTree(), rows, toy.sampling, RngKey(seed=0, request=0), 2
    )
    rows.learn(verdict, (END,))
    assert tree.num_nodes == 1


def test_samples_with_the_same_key_share_a_tree_and_old_trees_are_dropped() -> None:
    futures = LearnedFutures(max_nodes=5, max_trees=3)
    first = futures.of("a")
    assert futures.of("a") is first
    uniform, legal = torch.zeros(9, dtype=torch.float64), torch.ones(9, dtype=torch.bool)
    for token in range(5):
        first.extend(first.root, token, uniform, legal)
    assert futures.of("a") is first  # its own nodes are no reason to drop it
    futures.of("b")
    assert futures.of("a") is not first
    kept = futures.of("c")
    futures.of("d")
    futures.of("c")
    futures.of("e")
    futures.of("f")
    assert futures.of("c") is kept


def test_an_aligned_request_has_no_value_that_changes_the_models_distribution() -> None:
    with pytest.raises(ValueError, match=r"`align` .* set `temperature`"):
        SamplingParams(constraint=ALIGNED)
    for name, value in (("top_k", 4), ("top_p", 0.9), ("min_p", 0.1), ("min_tokens", 2)):
        with pytest.raises(ValueError, match=f"`align` .* `{name}` changes"):
            SamplingParams(constraint=ALIGNED, temperature=1.0, **{name: value})  # type: ignore[arg-type]  # a number
    assert SamplingParams(constraint=ALIGNED, temperature=0.5).constraint == ALIGNED
