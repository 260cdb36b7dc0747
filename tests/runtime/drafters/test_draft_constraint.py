import torch

from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import RngKey, SamplingParams
from parallel.messages import DraftOpen
from runtime.drafters.draft_constraint import DraftConstraint, draft_constraint
from runtime.errors import InvalidValue
from tests.support.automata import AutomatonState, many, text
from tests.support.toy_constraint import SPEC, ToyConstraints

END, A, B = range(3)
START = AutomatonState(many(text("ab")), (None, b"a", b"b"))


def opened(sampling: SamplingParams) -> DraftOpen:
    return DraftOpen(
        request=1,
        key=RngKey(seed=0, request=1),
        sampling=sampling,
        num_prompt=2,
        capacity=50,
        send_probs=False,
    )


def bound() -> DraftConstraint:
    found = DraftConstraint(opened(SamplingParams(constraint=SPEC, end_ids=(END,))))
    found.begin(START)
    return found


def legal(constraint: DraftConstraint, *output: int) -> list[int]:
    row = constraint.masked(ScoreRow(torch.zeros(3), None), (7, 7, *output))
    return torch.isfinite(row.logits).nonzero().flatten().tolist()


def test_the_mask_follows_the_text_forward_and_back() -> None:
    constraint = bound()
    assert legal(constraint) == [END, A]
    assert legal(constraint, A, B, A) == [B]
    assert legal(constraint, A, B) == [END, A]
    assert legal(constraint, A) == [B]


def test_a_long_text_is_followed_from_its_last_tokens_and_from_its_start() -> None:
    constraint = bound()
    text_ids = [A, B] * 200
    for num in range(0, len(text_ids), 3):
        assert legal(constraint, *text_ids[:num]) == ([B] if num % 2 else [END, A])
    assert legal(constraint, A, B, A) == [B]
    assert legal(constraint, *text_ids) == [END, A]


def test_after_an_illegal_draft_or_the_end_nothing_is_ruled_out() -> None:
    constraint = bound()
    assert legal(constraint, A, A) == [END, A, B]
    assert legal(constraint, A, B, END) == [END, A, B]
    assert legal(constraint, A, B, A) == [B]


def test_a_drafter_without_a_legal_token_drafts_what_it_can() -> None:
    row = bound().masked(ScoreRow(torch.zeros(1), None), (7, 7, A))
    assert row.logits.tolist() == [0.0]


def test_an_end_that_comes_too_early_is_not_the_only_token_left() -> None:
    sampling = SamplingParams(constraint=SPEC, end_ids=(END,), min_tokens=4)
    constraint = DraftConstraint(opened(sampling))
    constraint.begin(AutomatonState(text("ab"), (None, b"a", b"b")))
    assert legal(constraint, A) == [B]
    assert legal(constraint, A, B) == [END, A, B]


def test_what_must_follow_is_known_up_to_the_end() -> None:
    constraint = bound()
    assert constraint.forced((7, 7, A)) == (B,)
    assert constraint.forced((7, 7, A, B)) == ()
    assert constraint.forced((7, 7, A, A)) == ()
    once = DraftConstraint(opened(SamplingParams(constraint=SPEC, end_ids=(END,))))
    once.begin(AutomatonState(text("ab"), (None, b"a", b"b")))
    assert once.forced((7, 7, A, B)) == (END,)


def test_nothing_is_ruled_out_until_the_constraint_is_compiled() -> None:
    constraint = DraftConstraint(opened(SamplingParams(constraint=SPEC, end_ids=(END,))))
    assert legal(constraint, A) == [END, A, B]
    assert constraint.forced((7, 7, A)) == ()
    constraint.begin(InvalidValue("the target rejects the request, too"))
    assert legal(constraint, A) == [END, A, B]
    constraint.begin(START)
    assert legal(constraint, A) == [B]


def test_a_request_has_a_constraint_where_something_compiles_it() -> None:
    assert draft_constraint(opened(SamplingParams()), ToyConstraints()) is None
    assert draft_constraint(opened(SamplingParams(constraint=SPEC)), None) is None
    known = draft_constraint(opened(SamplingParams(constraint=SPEC)), ToyConstraints())
    assert known is not None
    assert known.after((7, 7)) is not None
