"""Prepared drafts grow part by part, whatever happens to the parts."""

import random

from parallel.decoding.types import DraftTree
from parallel.decoding.verdict_outcomes import OutcomeDraft, Prepared, VerdictOutcome, with_parts

HERE, THERE = VerdictOutcome(2, 7), VerdictOutcome(0, 7)


def part(outcome: VerdictOutcome, first: int, *token_ids: int) -> OutcomeDraft:
    return OutcomeDraft(outcome=outcome, first=first, token_ids=token_ids)


def test_an_outcome_is_known_before_the_first_token_of_its_draft() -> None:
    assert with_parts({}, [part(HERE, 0)], max_length=3) == {HERE: DraftTree()}


def test_drafts_of_different_outcomes_grow_apart() -> None:
    found = with_parts({}, [part(HERE, 0, 1), part(THERE, 0, 5, 6)], max_length=3)
    found = with_parts(found, [part(HERE, 1, 2)], max_length=3)
    assert found == {HERE: DraftTree.chain((1, 2)), THERE: DraftTree.chain((5, 6))}


def test_a_draft_is_cut_at_its_length() -> None:
    assert with_parts({}, [part(HERE, 0, 1, 2, 3)], max_length=2)[HERE].token_ids == (1, 2)
    assert with_parts({}, [part(HERE, 0, 1)], max_length=0)[HERE].token_ids == ()


def test_parts_leave_the_prepared_drafts_of_before_as_they_are() -> None:
    before = {HERE: DraftTree.chain((1,))}
    with_parts(before, [part(HERE, 1, 2)], max_length=3)
    assert before == {HERE: DraftTree.chain((1,))}


def test_lost_and_repeated_parts_leave_a_beginning_of_the_draft() -> None:
    chooser = random.Random(3)
    whole = {HERE: (1, 2, 3, 4, 5), THERE: (6, 7, 8, 9, 10)}
    sizes = set()
    for _ in range(300):
        parts = [part(key, i, ids[i]) for i in range(5) for key, ids in whole.items()]
        sent = [each for each in parts if chooser.random() < 0.8]
        sent = [each for each in sent for _ in range(chooser.choice([1, 1, 2]))]
        found: Prepared = {}
        for each in sent:
            found = with_parts(found, [each], max_length=5)
        for key, tree in found.items():
            assert tree.token_ids == whole[key][: len(tree)]
            sizes.add(len(tree))
    assert sizes == {1, 2, 3, 4, 5}
