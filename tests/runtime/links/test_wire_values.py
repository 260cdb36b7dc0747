"""Values that may cross the wire, at their borders."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from protos.paceline.v1 import link_pb2 as pb
from runtime.links.wire_values import (
    MAX_DRAFT_ITEMS,
    MAX_TOKEN_ID,
    MODE_NAMES,
    MODES,
    checked_context,
    checked_parents,
    checked_probs,
    checked_seconds,
    checked_token_ids,
    finite,
    known,
    one_each,
    require_bounded,
)


def test_every_mode_and_its_number_name_each_other() -> None:
    for mode, number in MODES.items():
        assert known(MODE_NAMES, number, "mode") is mode
    with pytest.raises(ValueError, match="mode 0 is unknown"):
        known(MODE_NAMES, pb.DECODE_MODE_UNSPECIFIED, "mode")


@pytest.mark.parametrize(
    ("check", "values"),
    [
        (checked_token_ids, ()),
        (checked_token_ids, (0, MAX_TOKEN_ID)),
        (checked_context, (5,)),
        (checked_context, (5, 6)),
        (lambda values: checked_probs(values, values), (0.0, 1.0)),
        (lambda values: checked_parents(values, (9, 9, 9)), (-1, 0, -1)),
        (lambda values: checked_parents(values, (9, 9, 9)), ()),
        (lambda values: one_each(values, (9, 9)), (1, 2)),
    ],
)
def test_values_in_range_are_returned(check: Callable[[Any], Any], values: object) -> None:
    assert check(values) == values


@pytest.mark.parametrize(
    ("check", "values", "words"),
    [
        (checked_token_ids, (0, MAX_TOKEN_ID + 1), f"to {MAX_TOKEN_ID + 1}"),
        (checked_token_ids, (3, -1), "range from -1 to 3"),
        (checked_context, (), "a context of 0 tokens"),
        (checked_context, (1, 2, 3), "a context of 3 tokens"),
        (lambda values: checked_probs(values, (1, 2)), (0.5,), "1 probabilities for 2 tokens"),
        (lambda values: checked_probs(values, values), (math.nan,), "outside 0 to 1"),
        (lambda values: checked_probs(values, values), (1.0001,), "outside 0 to 1"),
        (lambda values: checked_parents(values, (9, 9)), (0, -1), "do not form a tree"),
        (lambda values: checked_parents(values, (9, 9)), (-2, 0), "do not form a tree"),
        (lambda values: checked_parents(values, (9, 9)), (-1,), "1 values for 2 tokens"),
        (lambda value: finite(value, "top_p"), math.inf, "top_p is inf"),
        (lambda value: checked_seconds(value, "wait"), -0.1, "wait is -0.1"),
        (lambda value: checked_seconds(value, "wait"), math.nan, "wait is nan"),
    ],
)
def test_values_out_of_range_are_rejected(
    check: Callable[[Any], Any], values: object, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        check(values)


def test_the_largest_proposal_passes() -> None:
    item = pb.ProposalItem(token_ids=[1] * 16)
    require_bounded(pb.Proposal(items=[item] * MAX_DRAFT_ITEMS))
