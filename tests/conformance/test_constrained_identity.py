"""Constrained outputs are those of plain constrained decoding, however they are made.

Every output of plain decoding is checked token by token against transformers and an automaton.
"""

from dataclasses import replace
from functools import cache
from itertools import repeat

import pytest

from tests.support.constrained_ways import (
    LONG,
    WAYS,
    CompiledConstraints,
    Output,
    Way,
    check_oracle,
    constrained_submits,
    outputs,
)
from tests.support.constrained_ways import VOCAB as VOCAB_SIZE
from tests.support.decoding_ways import StoredModel
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.virtual_engine import Fate

NUM_REQUESTS = 200
"""Of each temperature, in the slow test."""
NUM_QUICK = 4
QUICK_WAYS = {
    "speculative": 1,
    "pearl": 2,
    "outcomes": 1,
    "trees": 2,
    "auto": 2,
    "drafter killed": 1,
    "resumed": 1,
    "preempted": 2,
}
"""With the number of the target's ranks; the slow test has every way with 1 and 2."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    directory = save_tiny_checkpoint(
        tmp_path_factory.mktemp("constrained") / "model", vocab_size=VOCAB_SIZE
    )
    return StoredModel(directory=directory, weights="float32", draft_layers=(0, 1), num_pages=400)


@pytest.fixture(scope="module")
def constraints() -> CompiledConstraints:
    return CompiledConstraints()


@pytest.mark.parametrize(("name", "tp"), QUICK_WAYS.items())
def test_speculation_changes_no_token_of_a_constrained_output(
    name: str, tp: int, model: StoredModel, constraints: CompiledConstraints
) -> None:
    check(model, constraints, name, num=1 if name == "preempted" else NUM_QUICK, tp=tp)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("name", WAYS)
def test_speculation_changes_no_token_of_any_of_200_constrained_outputs(
    name: str, tp: int, model: StoredModel, constraints: CompiledConstraints
) -> None:
    check(model, constraints, name, num=NUM_REQUESTS, tp=tp)


def check(
    model: StoredModel, constraints: CompiledConstraints, name: str, *, num: int, tp: int
) -> None:
    """Check a way's outputs, and that it did what its name says."""
    way = WAYS[name]
    is_long = way.num_pages is not None
    submits = constrained_submits(num, is_long=is_long)
    expected = plain(model, constraints, num, is_long=is_long)
    if way.resumes:
        submits = [
            replace(submit, output_ids=output.token_ids[: submit.request % len(output.token_ids)])
            for submit, output in zip(submits, expected, strict=True)
        ]
    found = outputs(model, way, submits, constraints, tp=tp)
    differing = [
        submit.request
        for submit, mine, theirs in zip(submits, found, expected, strict=True)
        if (mine.token_ids, mine.reason, mine.complete)
        != (theirs.token_ids, theirs.reason, theirs.complete)
    ]
    print(f"{name}, tp {tp}: {len(submits) - len(differing)} of {len(submits)} identical")
    assert not differing
    check_activity(way, found)


def check_activity(way: Way, found: list[Output]) -> None:
    drafts = way.drafter is not None
    assert (sum(output.stats.accepted for output in found) > 0) == drafts
    assert (sum(output.stats.preemptions for output in found) > 0) == (way.num_pages is not None)
    if Fate.DIES in way.fates:
        assert any(output.stats.drafter_lost for output in found)
    if Fate.LOST in way.fates:
        assert sum(output.stats.missed_drafts for output in found) > 0


@cache
def plain(
    model: StoredModel, constraints: CompiledConstraints, num: int, *, is_long: bool
) -> list[Output]:
    """Return what plain constrained decoding gives, checked against the oracle."""
    submits = constrained_submits(num, is_long=is_long)
    found = outputs(model, WAYS["autoregressive"], submits, constraints, tp=1)
    num_ties = sum(map(check_oracle, repeat(model), submits, found))
    num_tokens = sum(len(output.token_ids) for output in found)
    print(f"plain decoding: {num_ties} near ties in {num_tokens} tokens")
    assert num_ties <= num_tokens / 1000
    assert any(output.reason == "length" for output in found)
    if is_long:
        assert all(len(output.token_ids) == LONG for output in found)
    else:
        assert any(output.reason == "stop" for output in found)
    return found
