"""The engine runs requests together, and survives what fails: drafters, links, requests."""

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from parallel.decoding.types import SamplingParams
from parallel.messages import (
    Cancel,
    Committed,
    DraftRequest,
    Failed,
    Finished,
    Ping,
    Pong,
)
from runtime.drafters.drafting import DraftPart
from runtime.drafters.model_drafting import ModelDrafter
from runtime.links.memory_link import Faults, memory_link_pair
from tests.support.rig import PAGE, VOCAB, Rig, expected_tokens, make_submit
from tests.support.serving import toy_tokenizer

MODES = ("autoregressive", "speculative", "pearl")
SAMPLINGS = (
    SamplingParams(),
    SamplingParams(temperature=0.8, seed=7),
    SamplingParams(temperature=1.0, top_k=5, seed=3),
    SamplingParams(temperature=0.9, top_p=0.8, min_p=0.02, seed=4),
    SamplingParams(temperature=1.0, repetition_penalty=1.3, seed=5),
    SamplingParams(repetition_penalty=1.5),
)


def test_the_target_waits_for_a_drafter_in_its_own_thread(rig: Rig) -> None:
    rig.attach_inline()
    submit = make_submit(1, prompt=[5, 1], mode="pearl", draft_length=4, max_tokens=60)
    outcome = rig.run([submit])[1]
    assert outcome.token_ids == expected_tokens(submit)
    assert outcome.finished is not None
    stats = outcome.finished.stats
    assert stats.accepted > 0
    assert stats.draft_s > 0
    assert stats.hidden_s < stats.draft_s / 10


def test_an_idle_engine_that_is_asked_all_the_time_is_idle(rig: Rig) -> None:
    """Its ranks receive heartbeats, so it does not look hung."""
    rig.attach_model()
    link = rig.driver()
    outcome = rig.run([make_submit(1, prompt=[5, 1], mode="pearl", max_tokens=20)])[1]
    assert outcome.finished is not None
    begun, beats = time.monotonic(), []
    while time.monotonic() - begun < 0.6:  # twelve heartbeats
        link.send(Ping(number=1))
        assert isinstance(link.recv(5.0), Pong)
        beats.append(rig.pulse.beat())
        time.sleep(0.01)
    assert {beat.state for beat in beats[len(beats) // 2 :]} == {"idle"}
    assert beats[-1].num_steps - beats[0].num_steps >= 4


def test_a_mixed_batch_gives_what_each_request_gives_alone(rig: Rig) -> None:
    rig.attach_model()
    chooser = random.Random(0)
    submits = [
        make_submit(
            i,
            prompt=[chooser.randrange(48) for _ in range(chooser.randrange(1, 60))],
            mode=MODES[i % 3],
            max_tokens=chooser.randrange(1, 40),
            draft_length=chooser.randrange(0, 7),
            sampling=SAMPLINGS[i % len(SAMPLINGS)],
        )
        for i in range(20)
    ]
    first = rig.run(submits)
    second = rig.run(submits[::-1])
    for submit in submits:
        assert first[submit.request].token_ids == expected_tokens(submit)
        assert second[submit.request].token_ids == expected_tokens(submit)
    assert sum(o.finished.stats.accepted for o in first.values() if o.finished) > 0


def test_the_controller_may_choose_the_draft_length(rig: Rig) -> None:
    rig.attach_model()
    submits = [
        make_submit(i, draft_length=None, max_tokens=60, mode=m) for i, m in enumerate(MODES)
    ]
    outcomes = rig.run(submits)
    for submit in submits:
        assert outcomes[submit.request].token_ids == expected_tokens(submit)


def test_rejection_verifying_is_reproducible_and_active(rig: Rig) -> None:
    rig.attach_model()
    sampling = SamplingParams(temperature=1.0, seed=11)
    submit = make_submit(verifier="rejection", sampling=sampling, max_tokens=60)
    first = rig.run([submit])[0]
    second = rig.run([submit])[0]
    assert first.token_ids == second.token_ids
    assert first.finished is not None
    assert first.finished.stats.accepted > 0
    assert first.finished.stats.rejected > 0


@pytest.mark.parametrize("seed", range(4))
def test_the_drafter_holds_the_text_of_the_target(
    rig: Rig, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of a draft comes late, when the next item has made it void already."""
    held: dict[int, tuple[int, ...]] = {}
    answer = ModelDrafter.answer

    def watched(self: ModelDrafter, request: DraftRequest) -> Iterator[DraftPart]:
        for part in answer(self, request):
            for item in request.items:
                held[item.request] = tuple(self._model.sequence(item.request).token_ids)
            yield part

    monkeypatch.setattr(ModelDrafter, "answer", watched)
    rig.attach_model(noise=0.3)
    sampling = SamplingParams(temperature=1.0, seed=seed)
    submits = [
        make_submit(r, prompt=(r + 1, 7), sampling=sampling, max_tokens=60) for r in range(4)
    ]
    outcomes = rig.run(submits)
    for number, submit in enumerate(submits, 1):
        whole = (*submit.prompt_ids, *outcomes[submit.request].token_ids)
        assert submit.draft_length is not None
        in_flight = 4 * submit.draft_length
        assert held[number][: len(whole) - in_flight] == whole[:-in_flight]


def test_killing_the_drafter_half_way_changes_no_token(rig: Rig) -> None:
    drafter = rig.attach_model()
    sampling = SamplingParams(temperature=0.8, seed=7)
    submit = make_submit(max_tokens=200, sampling=sampling)
    link = rig.driver()
    link.send(submit)
    tokens: list[int] = []
    finished = None
    while finished is None:
        message = link.recv(10.0)
        if isinstance(message, Committed):
            tokens.extend(message.token_ids)
            if len(tokens) > 40:
                drafter.close()
        elif isinstance(message, Finished):
            finished = message
        else:
            raise AssertionError(f"unexpected {message}")
    assert tokens == expected_tokens(submit)
    assert finished.stats.drafter_lost
    assert finished.stats.accepted > 0
    rig.attach_model()
    again = rig.run([submit])[0]
    assert again.token_ids == tokens
    assert again.finished is not None
    assert not again.finished.stats.drafter_lost
    assert again.finished.stats.accepted > 0


def test_a_silent_drafter_costs_one_wait_budget() -> None:
    rig = Rig(wait_budget_s=0.2)
    rig.attach_silent()
    submit = make_submit(max_tokens=50)
    outcome = rig.run([submit])[0]
    rig.close()
    assert outcome.token_ids == expected_tokens(submit)
    assert outcome.finished is not None
    assert outcome.finished.stats.missed_drafts == 1
    assert outcome.finished.stats.drafted == 0


@pytest.mark.parametrize("seed", range(6))
def test_a_faulty_drafter_link_changes_no_token(seed: int) -> None:
    rig = Rig(wait_budget_s=0.05)
    chooser = random.Random(seed)
    faults = Faults()
    for nth in range(1, 60):
        match chooser.randrange(8):
            case 0:
                faults = faults.drop(nth=nth)
            case 1:
                faults = faults.duplicate(nth=nth)
            case 2:
                faults = faults.delay(nth=nth, seconds=chooser.choice([0.01, 0.08]))
    leader_end, drafter_end = memory_link_pair("drafter", "leader")
    side = chooser.randrange(2)
    if side:
        leader_end = faults.wrap(leader_end)
    else:
        drafter_end = faults.wrap(drafter_end)
    rig.attach_link(leader_end, drafter_end)
    submits = [
        make_submit(i, prompt=[i, 9], max_tokens=40, mode=MODES[1 + i % 2]) for i in range(4)
    ]
    outcomes = rig.run(submits)
    rig.close()
    for submit in submits:
        assert outcomes[submit.request].token_ids == expected_tokens(submit)


def test_requests_beyond_cache_and_batch_wait_their_turn() -> None:
    rig = Rig(num_pages=12, max_batch=3)
    rig.attach_model(num_pages=12)
    submits = [make_submit(i, prompt=[i] * 8, max_tokens=3 * PAGE) for i in range(9)]
    outcomes = rig.run(submits)
    rig.close()
    for submit in submits:
        assert outcomes[submit.request].token_ids == expected_tokens(submit)


def test_a_long_prompt_is_read_in_chunks_beside_the_others() -> None:
    rig = Rig(prefill_chunk=7)
    rig.attach_model()
    submits = [make_submit(0, prompt=[4] * 100), make_submit(1, prompt=[5])]
    outcomes = rig.run(submits)
    rig.close()
    for submit in submits:
        assert outcomes[submit.request].token_ids == expected_tokens(submit)


def test_a_drafter_without_room_leaves_requests_undrafted() -> None:
    rig = Rig()
    rig.attach_model(num_pages=8)
    submits = [make_submit(i, prompt=[i], max_tokens=24) for i in range(3)]
    outcomes = rig.run(submits)
    rig.close()
    for submit in submits:
        assert outcomes[submit.request].token_ids == expected_tokens(submit)
    drafted = [o.finished.stats.drafted for o in outcomes.values() if o.finished]
    assert max(drafted) > 0


def test_bad_requests_fail_alone() -> None:
    rig = Rig(num_pages=20)
    rig.attach_model()
    submits = [
        make_submit(0),
        make_submit(1, prompt=[]),
        make_submit(2, prompt=[1] * 500),
        make_submit(3, prompt=[48]),
        make_submit(4, max_tokens=300),
        make_submit(5, max_tokens=0),
    ]
    outcomes = rig.run(submits)
    rig.close()
    assert outcomes[0].token_ids == expected_tokens(submits[0])
    for number, words in {
        1: "no tokens",
        2: "500 tokens",
        3: "outside the vocabulary",
        4: "need 303 tokens of cache, it holds 80",
        5: "`max_tokens` is 0",
    }.items():
        failed = outcomes[number].failed
        assert failed is not None
        assert words in failed.message


def test_cancelled_and_abandoned_requests_free_their_cache(rig: Rig) -> None:
    rig.attach_model()
    link = rig.driver()
    link.send(make_submit(0, max_tokens=300))
    assert isinstance(link.recv(10.0), Committed)
    link.send(Cancel(request=0))
    while not isinstance(message := link.recv(10.0), Finished):
        assert isinstance(message, Committed)
    assert message.reason == "cancelled"
    gone = rig.driver()
    gone.send(make_submit(0, max_tokens=300))
    assert isinstance(gone.recv(10.0), Committed)
    gone.close()
    outcome = rig.run([make_submit(1, max_tokens=4)])[1]
    assert outcome.token_ids == expected_tokens(make_submit(1, max_tokens=4))
    link.send(Ping(number=3))
    pong = link.recv(10.0)
    assert isinstance(pong, Pong)
    assert pong.number == 3
    for _ in range(100):
        if rig.target.num_open == 0:
            break
        link.recv(0.05)
    assert rig.target.num_open == 0


def test_a_failing_target_tells_every_driver() -> None:
    rig = Rig()
    link = rig.driver()
    rig.target.forward = _fail  # type: ignore[method-assign, assignment]  # a rank that breaks
    link.send(make_submit(0))
    message = link.recv(10.0)
    rig.close()
    assert message == Failed(request=None, kind="PacelineError", message="broken")
    assert [type(error) for error in rig.errors] == [RuntimeError]


def _fail(_rows: object, _width: int) -> None:
    raise RuntimeError("broken")


def test_a_special_token_ends_an_output_as_a_stop_string() -> None:
    submit = make_submit(max_tokens=24)
    tokens = expected_tokens(submit)
    tokenizer = toy_tokenizer(f"w{tokens[9]}")
    rig = Rig(tokenizer=tokenizer)
    outcome = rig.run([replace(submit, stop=(f"w{tokens[9]}",))])[0]
    assert outcome.finished is not None
    assert outcome.finished.reason == "stop"
    assert outcome.token_ids == tokens[: tokens.index(tokens[9]) + 1]
    assert f"w{tokens[9]}" not in tokenizer.decode(outcome.token_ids).split()
    rig.close()


def test_a_stop_string_that_no_output_contains_fails_alone() -> None:
    rig = Rig(tokenizer=toy_tokenizer("w7"))
    submits = [replace(make_submit(1), stop=("w1 w7",)), make_submit(2)]
    outcomes = rig.run(submits)
    refused, other = outcomes[1], outcomes[2]
    assert refused.failed is not None
    assert "'w1 w7' contains the special token 'w7'" in refused.failed.message
    assert other.token_ids == expected_tokens(submits[1])
    rig.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_stop_token_ends_a_request_and_is_held_back_before_min_tokens(
    rig: Rig, mode: str
) -> None:
    rig.attach_model(noise=0.2)
    alone = expected_tokens(make_submit(mode=mode))
    ends = tuple(sorted(set(alone[2:6])))
    stopped = replace(make_submit(mode=mode), stop_token_ids=ends)
    outcome = rig.run([stopped])[0]
    first = next(n for n, token in enumerate(alone) if token in ends)
    assert outcome.token_ids == alone[: first + 1]
    assert outcome.finished is not None
    assert outcome.finished.reason == "stop"
    held = replace(stopped, request=1, sampling=SamplingParams(min_tokens=12))
    outcome = rig.run([held])[1]
    known_ends = SamplingParams(min_tokens=12, end_ids=ends)
    expected = expected_tokens(replace(held, sampling=known_ends))
    assert not set(expected[:12]) & set(ends)
    assert outcome.token_ids == expected[: len(outcome.token_ids)]
    assert len(outcome.token_ids) >= 12
    assert outcome.finished is not None
    assert (outcome.finished.stats.accepted > 0) == (mode != "autoregressive")


@pytest.mark.parametrize("fields", [{"stop_token_ids": (VOCAB,)}, {"sampling": VOCAB}])
def test_a_token_that_the_target_does_not_know_is_rejected(rig: Rig, fields: Any) -> None:
    if "sampling" in fields:
        fields = {"sampling": SamplingParams(logit_bias=((VOCAB, 1.0),))}
    failed = rig.run([replace(make_submit(), **fields)])[0].failed
    assert failed is not None
    assert f"has the token {VOCAB}: token ids are between 0 and {VOCAB - 1}" in failed.message
