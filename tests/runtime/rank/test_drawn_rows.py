"""Tokens drawn where the logits are give the output that the host's own draws give."""

from dataclasses import replace

import pytest
import torch

from parallel.batch import SequenceRows, TokenDraw
from parallel.decoding.sampling import sample
from parallel.decoding.types import DecodeMode, RngKey, SamplingParams, Verdict
from parallel.device_kernels.step_kernels import NO_TOKEN, NOT_FINITE, UNDECIDED
from parallel.device_step.drawn_tokens import DrawnTokens
from parallel.group import SoloGroup
from runtime.drafters.drafting import Drafter
from runtime.drafters.lookup_drafting import LookupDrafter
from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.drafters.model_drafting import ModelDrafter
from runtime.rank.drawn_rows import DrawnRows, drawn_rows
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner
from runtime.rank.step_plan import StepPlan, decode_plan, encode_plan
from tests.support.drawing_shard import DrawingShard
from tests.support.rig import PAGE, VOCAB, expected_tokens, make_submit
from tests.support.virtual_engine import VirtualEngine

KEY = RngKey(seed=2**64 - 1, request=2**63 + 5)
DRAWN = (
    SamplingParams(),
    SamplingParams(top_k=5, top_p=0.5),  # greedy all the same
    SamplingParams(temperature=0.8, seed=7),
    SamplingParams(temperature=1.3, seed=2**64 - 1),
)
"""Parameters with which a device draws."""
SCORED = (
    SamplingParams(temperature=1.0, top_k=5, seed=3),
    SamplingParams(temperature=0.9, top_p=0.8, seed=4),
    SamplingParams(temperature=0.9, min_p=0.05, seed=4),
    SamplingParams(temperature=1.0, repetition_penalty=1.3, seed=5),
    SamplingParams(presence_penalty=0.8, frequency_penalty=0.6),
    SamplingParams(temperature=0.9, logit_bias=((3, 2.0), (7, -5.0)), seed=8),
)
"""Parameters with which the host draws."""


def drafter(shard: DrawingShard) -> ModelDrafter:
    return ModelDrafter(ShardRunner(shard, SoloGroup()), SlotLedger(num_pages=400, page_size=PAGE))


def check(target: DrawingShard, mode: str, drafts: Drafter, *samplings: SamplingParams) -> None:
    """Check that requests with these parameters get the tokens of the target alone."""
    engine = VirtualEngine(shard=target, max_batch=4)
    engine.attach(drafts)
    submits = [
        make_submit(number, prompt=[number, 9, 9], mode=mode, sampling=sampling, max_tokens=12)
        for number, sampling in enumerate(samplings)
    ]
    driver = engine.run(submits)
    for submit in submits:
        outcome = driver.outcomes[submit.request]
        assert outcome.finished is not None, outcome.failed
        assert outcome.token_ids == expected_tokens(submit)
        assert (outcome.finished.stats.accepted > 0) == (mode != "autoregressive")


@pytest.mark.parametrize("mode", list(DecodeMode))
def test_every_mode_commits_the_tokens_that_a_device_draws(mode: str) -> None:
    target = DrawingShard(VOCAB, page_size=PAGE)
    draft = DrawingShard(VOCAB, page_size=PAGE, noise=0.3)
    check(target, mode, drafter(draft), *DRAWN)
    assert target.num_drawn > 10
    assert target.num_scored == 0, "the host reads no logits"
    if mode in ("speculative", "pearl"):
        assert draft.num_drawn > 10
        assert draft.num_scored == 0


@pytest.mark.parametrize("mode", ["speculative", "pearl"])
def test_parameters_that_need_scores_are_left_to_the_host(mode: str) -> None:
    for sampling in SCORED:
        target = DrawingShard(VOCAB, page_size=PAGE)
        draft = DrawingShard(VOCAB, page_size=PAGE, noise=0.3)
        check(target, mode, drafter(draft), sampling)
        assert target.num_drawn == draft.num_drawn == 0
    mixed = DrawingShard(VOCAB, page_size=PAGE)
    check(mixed, mode, drafter(DrawingShard(VOCAB, page_size=PAGE, noise=0.3)), *DRAWN, *SCORED)
    assert mixed.num_drawn > 10
    assert mixed.num_scored > 10


@pytest.mark.parametrize("mode", ["autoregressive", "speculative", "pearl"])
def test_rows_that_a_device_cannot_decide_are_drawn_by_the_host(mode: str) -> None:
    target = DrawingShard(VOCAB, page_size=PAGE, undecided_every=3)
    draft = DrawingShard(VOCAB, page_size=PAGE, noise=0.3, undecided_every=2)
    check(target, mode, drafter(draft), *DRAWN)
    assert target.num_drawn > 10
    assert target.num_scored > 10


def test_drafters_that_learn_the_best_tokens_and_log_probabilities_get_scores() -> None:
    target = DrawingShard(VOCAB, page_size=PAGE)
    engine = VirtualEngine(shard=target)
    submit = replace(make_submit(1, sampling=DRAWN[2]), num_logprobs=2)
    driver = engine.run([submit])
    assert driver.outcomes[1].token_ids == expected_tokens(submit)
    assert len(driver.outcomes[1].logprobs) == submit.max_tokens
    engine = VirtualEngine(shard=target)
    engine.attach(LookupDrafter(LookupSettings()))
    submit = make_submit(2, mode="speculative", sampling=DRAWN[2])
    assert engine.run([submit]).outcomes[2].token_ids == expected_tokens(submit)
    assert target.num_drawn == 0


def test_the_distribution_of_rejection_needs_scores_unless_it_is_greedy() -> None:
    for sampling, draws in ((SamplingParams(), True), (DRAWN[2], False)):
        target = DrawingShard(VOCAB, page_size=PAGE)
        engine = VirtualEngine(shard=target)
        engine.attach(drafter(DrawingShard(VOCAB, page_size=PAGE, noise=0.3)))
        submit = make_submit(1, mode="speculative", verifier="rejection", sampling=sampling)
        outcome = engine.run([submit]).outcomes[1]
        assert outcome.finished is not None, outcome.failed
        assert outcome.finished.stats.accepted > 0
        assert (target.num_drawn > 0) == draws
        if draws:
            assert outcome.token_ids == expected_tokens(submit)


def test_logits_without_a_distribution_fail_their_request_alone() -> None:
    draw = TokenDraw(key=KEY, position=0, temperature=0.7)
    rows = [
        SequenceRows(slot=0, start=0, token_ids=(1, 2), num_logits=2, draw=draw),
        SequenceRows(slot=1, start=0, token_ids=(1, 2), num_logits=1),
        SequenceRows(slot=2, start=0, token_ids=(1, 2), num_logits=0),
        SequenceRows(slot=3, start=0, token_ids=(1, 2), num_logits=2, draw=draw),
    ]
    found = DrawnTokens.empty(5, 4, 1, torch.device("cpu"))
    found.tokens[:] = torch.tensor([5, NOT_FINITE, 8, UNDECIDED, 9])
    found.verdicts[:] = torch.tensor(
        [[0, 5, -1], [0, 8, -1], [0, NO_TOKEN, -1], [0, UNDECIDED, -1]]
    )
    decided = drawn_rows(rows, found)
    drawn, damaged, scored, undecided, last = decided.rows
    assert decided.verdicts == [Verdict(num_accepted=0, next_token=5), None, None, None]
    assert scored is undecided is None
    assert drawn is not None
    assert damaged is not None
    assert last is not None
    params = SamplingParams(temperature=0.7)
    assert sample(drawn, params, KEY, 0) == 5
    assert sample(last, params, KEY, 1) == 9
    with pytest.raises(ValueError, match="must be finite"):
        sample(damaged, params, KEY, 1)
    assert drawn_rows(rows, None) == DrawnRows([None] * 5, [None] * 4)


def test_draws_cross_to_the_other_ranks_as_they_are() -> None:
    draw = TokenDraw(key=KEY, position=3, temperature=0.1)
    rows = SequenceRows(slot=1, start=0, token_ids=(1, 2), num_logits=1, draw=draw)
    plan = StepPlan(rows=(rows, replace(rows, draw=None)), num_candidates=(None, 1))
    assert decode_plan(encode_plan(plan)) == plan
