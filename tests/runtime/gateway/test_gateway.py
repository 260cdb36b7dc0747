"""Engines are lost while clients read: streams continue, no token is lost, changed or repeated."""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from parallel.decoding.types import SamplingParams
from parallel.messages import (
    Committed,
    EngineStatus,
    Finished,
    Message,
    Ping,
    Pong,
    RequestStats,
    Submit,
)
from runtime.client import Chunk, Client, ServiceError
from runtime.errors import PeerLost
from runtime.links.memory_link import memory_link_pair
from tests.support.rig import Rig, expected_tokens, make_submit
from tests.support.serving import Serving, slow_down, toy_tokenizer
from tests.support.waiting import wait_until

LONG = 120


def make_rig() -> Rig:
    rig = Rig(tokenizer=toy_tokenizer())
    rig.attach_model()
    slow_down(rig, 0.008)
    return rig


@pytest.fixture
def rigs() -> Iterator[list[Rig]]:
    """Engines; a test may add more, in place of lost ones."""
    made = [make_rig()]
    yield made
    for rig in made:
        rig.close()


@pytest.fixture
def serving(rigs: list[Rig]) -> Iterator[Serving]:
    made = Serving(*rigs, recovers=True)
    yield made
    made.close()


def read(address: str, number: int, **fields: Any) -> list[Chunk]:
    with Client(address) as client:
        return list(client.generate([1, 2, number], max_tokens=LONG, **fields))


def tokens_of(chunks: list[Chunk], sample: int = 0) -> list[int]:
    assert sum(c.finish_reason is not None for c in chunks if c.sample == sample) == 1
    return [token for c in chunks if c.sample == sample for token in c.token_ids]


def expected(number: int, sampling: SamplingParams | None = None) -> list[int]:
    submit = make_submit(prompt=(1, 2, number), max_tokens=LONG, sampling=sampling)
    return expected_tokens(submit)


def num_tokens(serving: Serving) -> int:
    """Return how many tokens are in the journals of what is open."""
    return sum(len(journal.token_ids) for _, journal in serving.gateway._table.open_samples())


def replace_engine(serving: Serving, rigs: list[Rig], after: int) -> None:
    """Lose the engine once so many tokens are committed, and attach another one in its place."""
    gateway = serving.gateway
    wait_until(lambda: num_tokens(serving) >= after)
    rigs[-1].engine.stop()
    wait_until(lambda: not gateway.replicas[0].is_up)
    rigs.append(make_rig())
    gateway.attach(0, rigs[-1].driver())


def test_streams_continue_when_their_engine_is_replaced_twice(
    rigs: list[Rig], serving: Serving
) -> None:
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(read, serving.address, number) for number in range(8)]
        replace_engine(serving, rigs, 80)
        replace_engine(serving, rigs, 300)
        found = [future.result(timeout=60) for future in running]
    for number, chunks in enumerate(found):
        assert tokens_of(chunks) == expected(number)
    replays = [chunks[-1].stats.replays for chunks in found if chunks[-1].stats is not None]
    assert sum(replays) > 0
    assert serving.gateway.num_open == 0


def test_samples_and_log_probabilities_stay_the_same(rigs: list[Rig], serving: Serving) -> None:
    fields = {"temperature": 0.8, "seed": 11, "n": 3, "logprobs": 2}
    alone = read(serving.address, 5, **fields)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(read, serving.address, 5, **fields)
        replace_engine(serving, rigs, 30)
        found = running.result(timeout=60)
    for sample in range(3):
        assert tokens_of(found, sample) == tokens_of(alone, sample)
        pairs = [
            [(one.top_ids, one.logprob) for c in chunks if c.sample == sample for one in c.logprobs]
            for chunks in (alone, found)
        ]
        assert [ids for ids, _ in pairs[0]] == [ids for ids, _ in pairs[1]]
        assert [p for _, p in pairs[0]] == pytest.approx([p for _, p in pairs[1]], abs=1e-5)
    sampling = SamplingParams(temperature=0.8, seed=11)
    assert tokens_of(found, 0) == expected(5, sampling)


@pytest.mark.parametrize("final", [0, 1, 39, 40, 41])
def test_stop_strings_are_found_across_a_loss(rigs: list[Rig], final: int) -> None:
    """The words before and after the loss make the stop string together, wherever it was."""
    whole = expected(7)
    before = [list(pair) for pair in pairwise(whole[:40])]
    assert [whole[39], whole[40]] not in before
    submit = replace(
        make_submit(prompt=(1, 2, 7), max_tokens=LONG),
        stop=(f"w{whole[39]} w{whole[40]}",),
        output_ids=tuple(whole[:final]),
    )
    outcome = rigs[0].run([submit])[0]
    assert outcome.token_ids == whole[final:41]
    assert outcome.finished is not None
    assert outcome.finished.reason == "stop"


def test_requests_wait_for_an_engine_to_come_back_and_can_be_cancelled(
    rigs: list[Rig], serving: Serving
) -> None:
    gateway = serving.gateway
    gateway.lose(0, PeerLost("a test"))
    wait_until(lambda: not gateway.is_ready)
    with ThreadPoolExecutor(2) as pool, Client(serving.address) as client:
        running = pool.submit(read, serving.address, 3)
        doomed = pool.submit(read, serving.address, 4, request_id="doomed")
        wait_until(lambda: gateway.num_open == 2)
        assert client.cancel("doomed")
        assert doomed.result(timeout=20)[-1].finish_reason == "cancelled"
        rigs.append(make_rig())
        gateway.attach(0, rigs[-1].driver())
        assert tokens_of(running.result(timeout=60)) == expected(3)


def test_an_engine_that_is_given_up_fails_what_waits(serving: Serving) -> None:
    gateway = serving.gateway
    gateway.lose(0, PeerLost("a test"))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(read, serving.address, 3, patience_s=0)
        wait_until(lambda: gateway.num_open == 1)
        gateway.give_up(0, PeerLost("it broke too often"))
        with pytest.raises(ServiceError, match="it broke too often") as failed:
            waiting.result(timeout=20)
    assert failed.value.code == "UNAVAILABLE"


def test_late_messages_of_a_lost_engine_are_ignored(rigs: list[Rig], serving: Serving) -> None:
    """It may only have been unreachable: its late messages must not reach the clients."""
    gateway = serving.gateway
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(read, serving.address, 2)
        wait_until(lambda: num_tokens(serving) > 10)
        ((_, journal),) = gateway._table.open_samples()
        number = journal.submit.request
        (replica,) = gateway.replicas
        old = replica.link
        assert old is not None
        rigs.append(make_rig())
        gateway.lose(0, PeerLost("a test"))
        gateway.attach(0, rigs[-1].driver())
        wait_until(lambda: replica.num_attached == 2)
        for late in (Committed(request=number, token_ids=(1, 1)), PeerLost("it woke up")):
            gateway._call_soon(gateway._dispatch.engines._receive, replica, old, late)
        assert tokens_of(running.result(timeout=60)) == expected(2)
    assert journal.num_sent == 2
    wait_until(lambda: not rigs[0].engine._scheduler.running)  # the abandoned one is dropped


def test_the_next_engine_repeats_an_end_that_was_lost(rigs: list[Rig], serving: Serving) -> None:
    """All tokens were committed, but the engine died before it reported the end."""
    gateway = serving.gateway
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(read, serving.address, 6)
        wait_until(lambda: num_tokens(serving) > 0)
        ((_, journal),) = gateway._table.open_samples()
        dispatch = gateway._dispatch
        finish = dispatch._finish
        dispatch._finish = lambda *_: None  # type: ignore[method-assign]  # the message is lost
        wait_until(lambda: len(journal.token_ids) == LONG)
        time.sleep(0.05)
        dispatch._finish = finish  # type: ignore[method-assign]
        rigs.append(make_rig())
        gateway.lose(0, PeerLost("a test"))
        gateway.attach(0, rigs[-1].driver())
        chunks = running.result(timeout=60)
    assert tokens_of(chunks) == expected(6)
    assert chunks[-1].finish_reason == "length"


def test_replicas_share_requests_and_take_over_from_a_dead_one(rigs: list[Rig]) -> None:
    rigs.append(make_rig())
    serving = Serving(*rigs, recovers=True)
    try:
        with ThreadPoolExecutor(8) as pool:
            running = [pool.submit(read, serving.address, number) for number in range(8)]
            wait_until(lambda: all(serving.gateway.num_open_on(n) > 0 for n in range(2)))
            rigs[1].engine.stop()
            found = [future.result(timeout=60) for future in running]
        assert [tokens_of(chunks) for chunks in found] == [expected(n) for n in range(8)]
        assert serving.gateway.replicas[1].state == "lost"
        with Client(serving.address) as client:
            told = [replica.state for replica in client.status().replicas]
        assert told == ["serving", "lost"]
    finally:
        serving.close()


class DeafLink:
    """A link that breaks with the first request."""

    peer = "a deaf engine"

    def send(self, message: Message) -> None:
        if isinstance(message, Submit):
            raise PeerLost("the deaf engine is gone")

    def recv(self, timeout_s: float) -> Message | None:
        time.sleep(timeout_s)
        return None

    def close(self) -> None:
        return


def test_a_request_that_an_engine_does_not_take_runs_once_on_another(rigs: list[Rig]) -> None:
    """The loss is noticed by sending: the request itself must not be sent twice."""
    serving = Serving(links=[DeafLink(), rigs[0].driver()], recovers=True)
    try:
        assert tokens_of(read(serving.address, 3)) == expected(3)
        other = serving.gateway.replicas[1]
        wait_until(lambda: other.status.tokens >= LONG and not rigs[0].engine._scheduler.running)
        time.sleep(1.2)  # its status is a second old at most
        assert other.status.tokens == LONG
    finally:
        serving.close()


POISON = 40


class Fragile:
    """An engine that dies of one prompt before any request of the same moment gets a token."""

    def __init__(self) -> None:
        self.link, self._ours = memory_link_pair("gateway", "engine")
        self.is_dead = False
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        taken: list[Submit] = []
        with contextlib.suppress(PeerLost):
            while True:
                message = self._ours.recv(0.05)
                if isinstance(message, Submit):
                    taken.append(message)
                    if message.prompt_ids[-1] == POISON:
                        self.is_dead = True
                        self._ours.close()
                elif isinstance(message, Ping):
                    self._ours.send(Pong(number=message.number, status=EngineStatus()))
                elif message is None:
                    for submit in taken:
                        self._ours.send(Committed(request=submit.request, token_ids=(7, 8)))
                        stats = RequestStats()
                        done = Finished(request=submit.request, reason="length", stats=stats)
                        self._ours.send(done)
                    taken = []


def test_a_request_that_engines_die_of_is_found_and_given_up() -> None:
    """It may be tried three times; those beside it wait at most for that, and get their tokens."""
    engine = Fragile()
    serving = Serving(links=[engine.link], recovers=True)
    num_lost = 0

    def ask(number: int) -> list[int]:
        with Client(serving.address) as client:
            chunks = list(client.generate([1, 2, number], max_tokens=2))
        return [token for chunk in chunks for token in chunk.token_ids]

    try:
        with ThreadPoolExecutor(6) as pool:
            running = {n: pool.submit(ask, n) for n in (1, 2, POISON, 3, 4, 5)}
            while not all(future.done() for future in running.values()):
                if engine.is_dead:
                    num_lost += 1
                    engine = Fragile()
                    serving.gateway.attach(0, engine.link)
                time.sleep(0.01)
        for number, future in running.items():
            if number == POISON:
                with pytest.raises(ServiceError, match="lost 3 times in a row with this request"):
                    future.result()
            else:
                assert future.result() == [7, 8]
        assert num_lost + engine.is_dead == 3
    finally:
        serving.close()
