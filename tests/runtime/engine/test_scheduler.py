"""The leader's scheduling: which requests run, yield, share and are late. Tokens never change."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from parallel.batch import SequenceRows
from parallel.decoding.types import SamplingParams, TokenLogprobs
from parallel.messages import Committed, EngineStatus, Finished, Ping, Pong, Submit
from parallel.model.backend import ForwardOutputs
from runtime.engine.request_queue import RequestQueue
from runtime.engine.sequence import DecodingSequence
from runtime.links.link import Link
from runtime.rank.toy_shard import prefix_logits
from tests.support.rig import PAGE, VOCAB, Rig, expected_tokens, make_submit

MODES = ["autoregressive", "speculative", "pearl"]
SAMPLED = SamplingParams(temperature=0.8, seed=3)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def status_of(rig: Rig) -> EngineStatus:
    link = rig.driver()
    link.send(Ping(number=1))
    pong = link.recv(10.0)
    assert isinstance(pong, Pong)
    link.close()
    return pong.status


@pytest.mark.parametrize("sampling", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("verifier", ["match", "rejection"])
def test_preempted_requests_end_with_the_same_tokens(
    sampling: SamplingParams, verifier: str
) -> None:
    """All fit when they start and none when they have grown."""
    rig = Rig(num_pages=60, max_batch=8)
    rig.attach_model()
    submits = [
        make_submit(
            i,
            prompt=[i, 9, 9],
            max_tokens=120,
            mode=MODES[i % 3],
            sampling=sampling,
            verifier=verifier,
        )
        for i in range(6)
    ]
    outcomes = rig.run(submits)
    status = status_of(rig)
    rig.close()
    assert status.preemptions > 0
    assert sum(o.finished.stats.preemptions for o in outcomes.values() if o.finished) > 0
    assert sum(o.finished.stats.accepted for o in outcomes.values() if o.finished) > 0
    for submit in submits:
        assert len(outcomes[submit.request].token_ids) == 120
        if verifier == "match" or sampling.is_greedy:
            assert outcomes[submit.request].token_ids == expected_tokens(submit)


@pytest.mark.parametrize("mode", MODES)
def test_a_common_beginning_is_read_once(rig: Rig, mode: str) -> None:
    rig.attach_model()
    common = [7, 8, 9, 1] * 8
    first = make_submit(0, prompt=[*common, 5], mode=mode)
    assert rig.run([first])[0].token_ids == expected_tokens(first)
    before = rig.target.num_read
    later = [make_submit(i, prompt=[*common, 6, i], mode=mode) for i in range(1, 5)]
    outcomes = rig.run(later)
    for submit in later:
        outcome = outcomes[submit.request]
        assert outcome.token_ids == expected_tokens(submit)
        assert outcome.finished is not None
        assert outcome.finished.stats.cached_prompt == len(common)
        assert (outcome.finished.stats.accepted > 0) == (mode != "autoregressive")
    assert rig.target.num_read - before < 4 * 24 * 6  # no prompt among them
    assert status_of(rig).prefix_hit_tokens == 4 * len(common)


def test_a_second_turn_finds_the_first_ones_answer(rig: Rig) -> None:
    rig.attach_lookup()
    first = make_submit(0, prompt=[3, 4] * 6, mode="speculative", max_tokens=40)
    answer = rig.run([first])[0].token_ids
    second = make_submit(1, prompt=[*first.prompt_ids, *answer, 2], mode="speculative")
    outcome = rig.run([second])[1]
    assert outcome.token_ids == expected_tokens(second)
    assert outcome.finished is not None
    assert outcome.finished.stats.cached_prompt > 12 + 40 - 2 * PAGE - 8


def test_the_higher_priority_is_served_first() -> None:
    rig = Rig(max_batch=1)
    link = rig.driver()
    submits = [
        replace(make_submit(i, prompt=[i], mode="autoregressive", max_tokens=30), priority=p)
        for i, p in enumerate([0, 0, 5, -1])
    ]
    order = ended_in_order(link, submits)
    assert [number for number in order if number != 0] == [2, 1, 3]  # 0 may have begun already
    rig.close()


def test_a_client_with_many_requests_does_not_hold_up_another() -> None:
    rig = Rig(max_batch=1)
    link = rig.driver()
    submits = [
        replace(make_submit(i, prompt=[i], mode="autoregressive", max_tokens=20), client=client)
        for i, client in enumerate(["greedy"] * 6 + ["modest"] * 2)
    ]
    order = ended_in_order(link, submits)
    rig.close()
    assert max(order.index(6), order.index(7)) <= 4


def ended_in_order(link: Link, submits: list[Submit]) -> list[int]:
    for submit in submits:
        link.send(submit)
    ended: list[int] = []
    while len(ended) < len(submits):
        message = link.recv(10.0)
        if isinstance(message, Finished):
            ended.append(message.request)
        else:
            assert isinstance(message, Committed)
    return ended


def test_a_client_that_was_away_starts_level_with_the_others() -> None:
    queue = RequestQueue()
    queue.charge("busy", 5000)
    waiting = [sequence_of(1, "busy"), sequence_of(2, "new"), sequence_of(3, "new")]
    for sequence in waiting:
        queue.push(sequence, [])
    assert queue.first() is waiting[0]
    queue.charge("busy", 1)
    assert queue.first() is waiting[1]


def sequence_of(number: int, client: str) -> DecodingSequence:
    submit = replace(make_submit(number), client=client)
    return DecodingSequence(number, submit, driver=1, submitted_s=0.0, max_tokens=4)


def test_an_expired_request_fails_queued_or_running_and_frees_its_cache() -> None:
    rig = Rig(max_batch=1)
    long = make_submit(0, mode="autoregressive", max_tokens=390)
    submits = [
        replace(long, timeout_s=0.05),
        replace(long, request=1, timeout_s=1e-3),
        replace(make_submit(2, max_tokens=8), timeout_s=60.0),
    ]
    outcomes = rig.run(submits)
    status = status_of(rig)
    rig.close()
    assert status.expired >= 1
    assert status.pages_used == 0
    assert outcomes[2].token_ids == expected_tokens(submits[2])
    failed = outcomes[1].failed
    assert failed is not None
    assert failed.kind == "DeadlineExceeded"
    assert "0.001 s were over while the request was queued" in failed.message


@pytest.mark.parametrize("mode", MODES)
def test_a_request_without_a_distribution_fails_alone(rig: Rig, mode: str) -> None:
    """The target's logits for one prompt are not a number; no other request notices."""
    rig.attach_model()
    forward = rig.target.forward

    def broken(rows: list[SequenceRows], width: int) -> ForwardOutputs:
        logits = forward(rows, width).logits
        first = 0
        for row in rows:
            if row.slot == 2:
                logits[first : first + row.num_logits] = torch.nan
            first += row.num_logits
        return ForwardOutputs(logits)

    rig.target.forward = broken  # type: ignore[method-assign, assignment]
    submits = [make_submit(i, prompt=[7, 7, 7, 7, 7, i], mode=mode) for i in range(1, 5)]
    outcomes = rig.run(submits)
    failed = outcomes[2].failed
    assert failed is not None
    assert "take bfloat16 or float32" in failed.message
    rig.target.forward = forward  # type: ignore[method-assign]
    again = rig.run([make_submit(9, prompt=[7, 7, 7, 7, 7, 2], mode=mode)])
    assert again[9].token_ids == expected_tokens(make_submit(prompt=[7, 7, 7, 7, 7, 2]))
    for submit in submits:
        if submit.request != 2:
            assert outcomes[submit.request].token_ids == expected_tokens(submit)
    assert status_of(rig).pages_used == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sampling", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])
def test_log_probabilities_are_the_targets(rig: Rig, sampling: SamplingParams, mode: str) -> None:
    rig.attach_model(grows_trees=True)
    submit = replace(make_submit(0, mode=mode, sampling=sampling), num_logprobs=3)
    link = rig.driver()
    link.send(submit)
    tokens = list(submit.prompt_ids)
    found: list[tuple[int, TokenLogprobs]] = []
    while not isinstance(message := link.recv(10.0), Finished):
        assert isinstance(message, Committed)
        assert len(message.logprobs) == len(message.token_ids)
        found += zip(message.token_ids, message.logprobs, strict=True)
    assert (message.stats.accepted > 0) == (mode != "autoregressive")
    for token, scored in found:
        next_probs = prefix_logits(tokens, VOCAB).log_softmax(0)
        assert math.isclose(scored.logprob, float(next_probs[token]), abs_tol=1e-5)
        assert list(scored.top_ids) == next_probs.topk(3).indices.tolist()
        assert scored.top_logprobs == pytest.approx(next_probs.topk(3).values.tolist(), abs=1e-5)
        tokens.append(token)
    assert tokens[3:] == expected_tokens(submit)


def test_samples_of_one_prompt_differ_and_repeat(rig: Rig) -> None:
    submits = [
        replace(make_submit(i, sampling=SAMPLED), sample_index=index)
        for i, index in enumerate([0, 1, 2, 1])
    ]
    outcomes = rig.run(submits)
    texts = [tuple(outcomes[i].token_ids) for i in range(4)]
    assert len(set(texts)) == 3
    assert texts[1] == texts[3]
    assert list(texts[0]) == expected_tokens(submits[0])
