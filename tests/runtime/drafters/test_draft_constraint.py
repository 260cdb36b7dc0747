import torch

from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import RngKey, SamplingParams
from parallel.messages import DraftOpen
from runtime.drafters.draft_constraint import DraftConstraint, draft_constraint
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
    return DraftConstraint(START, opened(SamplingParams(constraint=SPEC, end_ids=(END,))))


def legal(constraint: DraftConstraint, *output: int) -> list[int]:
    row = constraint.masked(ScoreRow(torch.zeros(3), None), (7, 7, *output))
    return torch.isfinite(row.logits).nonzero().flatten().tolist()


def test_the_mask_follows_the_text_forward_and_back() -> None:
    constraint = bound()
    assert legal(constraint) == [END, A]
    assert legal(constraint, A, B, A) == [B]
    assert legal(constraint, A, B) == [END, A]
    assert legal(constraint, A) == [B]


def test_after_an_illegal_draft_or_the_end_nothing_is_ruled_out() -> None:
    constraint = bound()
    assert legal(constraint, A, A) == [END, A, B]
    assert legal(constraint, A, B, END) == [END, A, B]
    assert legal(constraint, A, B, A) == [B]


def test_a_drafter_without_a_legal_token_drafts_what_it_can() -> None:
    row = bound().masked(ScoreRow(torch.zeros(1), None), (7, 7, A))
    assert row.logits.tolist() == [0.0]


def test_only_a_compiled_constraint_is_known() -> None:
    assert draft_constraint(opened(SamplingParams()), ToyConstraints()) is None
    assert draft_constraint(opened(SamplingParams(constraint=SPEC)), None) is None
    known = draft_constraint(opened(SamplingParams(constraint=SPEC)), ToyConstraints())
    assert known is not None
