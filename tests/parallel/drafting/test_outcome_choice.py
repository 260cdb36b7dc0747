"""Outcomes are chosen by their probability, which is learned from what came true."""

import random
from itertools import product

import pytest

from parallel.drafting.outcome_choice import GuessPlace, OutcomeOdds, likeliest_outcomes


@pytest.mark.parametrize("num", [0, 1, 5, 100])
def test_the_likeliest_outcomes_are_those_of_a_full_enumeration(num: int) -> None:
    chooser = random.Random(1)
    for _ in range(30):
        acceptance = [chooser.random() for _ in range(chooser.randrange(1, 6))]
        guesses = sorted((chooser.random() / 4 for _ in range(3)), reverse=True)
        probability = {}
        for place, rank in product(range(len(acceptance)), range(3)):
            before = 1.0
            for kept in acceptance[:place]:
                before *= kept
            probability[GuessPlace(place, rank)] = before * (1 - acceptance[place]) * guesses[rank]
        expected = sorted(probability.values(), reverse=True)[:num]
        found = [probability[place] for place in likeliest_outcomes(acceptance, guesses, num)]
        assert found == pytest.approx(expected)


def test_an_outcome_that_cannot_be_is_not_chosen() -> None:
    assert likeliest_outcomes([1.0, 0.5], [0.4], 9) == [GuessPlace(1, 0)]


def test_acceptance_is_learned_by_the_lead_of_a_draft() -> None:
    odds = OutcomeOdds()
    assert odds.acceptance(-1) < odds.acceptance(0.3) < odds.acceptance(9)
    for _ in range(400):
        odds.observe_draft(9.0, kept=False)
        odds.observe_draft(0.3, kept=True)
    assert odds.acceptance(9) < 0.1 < 0.9 < odds.acceptance(0.3)


def test_the_right_guess_is_learned_by_its_rank() -> None:
    odds, chooser = OutcomeOdds(), random.Random(2)
    share = (0.2, 0.5, 0.1)
    for _ in range(3000):
        actual = chooser.choices((7, 8, 9, 1), weights=(*share, 0.2))[0]
        odds.observe_guesses((7, 8, 9), actual)
    assert odds.guesses(3) == pytest.approx(share, abs=0.05)
    assert sum(odds.guesses(3)) <= 1


def test_a_new_request_starts_from_what_all_others_have_shown() -> None:
    overall = OutcomeOdds()
    first = OutcomeOdds(overall)
    for _ in range(300):
        first.observe_draft(0.7, kept=False)
    second = OutcomeOdds(overall)
    assert second.acceptance(0.7) < 0.2
    for _ in range(60):
        second.observe_draft(0.7, kept=True)
    assert first.acceptance(0.7) < 0.5 < second.acceptance(0.7)
