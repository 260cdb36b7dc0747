"""Several drafters of one leader: they come, go and stall while requests run; tokens stay."""

import threading
import time
from collections.abc import Iterator

import pytest

from parallel.messages import Finished, Hello, Submit
from runtime.links.link import Link
from runtime.links.memory_link import memory_link_pair
from tests.support.rig import VOCAB, Outcome, Rig, expected_tokens, make_submit, record
from tests.support.waiting import wait_until


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig(wait_budget_s=0.3)
    yield made
    made.close()


def submits(num: int = 6, mode: str = "pearl", max_tokens: int = 60) -> list[Submit]:
    return [
        make_submit(number, prompt=(1, 2, number), mode=mode, max_tokens=max_tokens)
        for number in range(num)
    ]


def slow_down(rig: Rig, seconds: float) -> None:
    forward = rig.target.forward

    def slow(rows: object, width: int) -> object:
        time.sleep(seconds)
        return forward(rows, width)  # type: ignore[arg-type]

    rig.target.forward = slow  # type: ignore[method-assign,assignment]


class Running:
    """Requests in flight, read by a thread."""

    def __init__(self, rig: Rig, submits: list[Submit]) -> None:
        self.submits = submits
        self.outcomes = {submit.request: Outcome() for submit in submits}
        self._link = rig.driver()
        for submit in submits:
            self._link.send(submit)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def num_tokens(self) -> int:
        return sum(len(outcome.token_ids) for outcome in self.outcomes.values())

    def wait_for(self, num_tokens: int) -> None:
        deadline = time.monotonic() + 30
        while self.num_tokens < num_tokens:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def check(self) -> list[Finished]:
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()
        ends: list[Finished] = []
        for submit in self.submits:
            outcome = self.outcomes[submit.request]
            assert outcome.token_ids == expected_tokens(submit)
            assert outcome.finished is not None
            ends.append(outcome.finished)
        self._link.close()
        return ends

    def _read(self) -> None:
        while any(outcome.finished is None for outcome in self.outcomes.values()):
            message = self._link.recv(20.0)
            assert message is not None
            record(self.outcomes, message)


def loads(rig: Rig) -> list[int]:
    numbers = [port.number for port in rig.ports.attached]
    having = [sequence.drafter for sequence in list(rig.engine._scheduler.running)]
    return [having.count(number) for number in numbers]


@pytest.mark.parametrize("mode", ["pearl", "speculative"])
def test_requests_are_shared_out_among_drafters(rig: Rig, mode: str) -> None:
    slow_down(rig, 0.005)
    rig.attach_model()
    rig.attach_model(joins=True)
    rig.attach_ngram(joins=True)
    running = Running(rig, submits(mode=mode))
    wait_until(lambda: sorted(loads(rig)) == [2, 2, 2])
    ends = running.check()
    assert all(end.stats.drafted > 0 for end in ends if end.stats is not None)
    assert len(rig.ports.attached) == 3


@pytest.mark.parametrize("mode", ["pearl", "speculative"])
def test_drafters_come_and_go_while_requests_run(rig: Rig, mode: str) -> None:
    """1 -> 4 -> 0 -> 2, by links that are cut and by names that leave."""
    slow_down(rig, 0.005)
    links: list[Link] = [rig.attach_model()]
    running = Running(rig, submits(mode=mode, max_tokens=150))
    running.wait_for(100)
    links += [rig.attach_model(noise=0.2 * n, joins=True) for n in range(3)]
    wait_until(lambda: loads(rig).count(0) == 0 and len(loads(rig)) == 4)
    running.wait_for(250)
    rig.engine.leave("toy")  # all have this name
    wait_until(lambda: not rig.ports.attached)
    running.wait_for(400)
    links += [rig.attach_model(joins=True), rig.attach_model(joins=True)]
    wait_until(lambda: sorted(loads(rig)) == [3, 3])
    running.wait_for(600)
    links[-1].close()
    ends = running.check()
    assert all(end.stats.drafted > 0 for end in ends if end.stats is not None)
    assert rig.ports.num_losses == 1  # the others left when the leader closed their links


def test_a_stalled_drafters_requests_continue_with_another_one(rig: Rig) -> None:
    slow_down(rig, 0.005)
    ours, theirs = memory_link_pair("leader", "drafter")
    rig.engine.join(Hello(role="drafter", name="silent", vocab_size=VOCAB), theirs)
    rig.attach_model(joins=True)
    running = Running(rig, submits(mode="speculative"))
    ends = running.check()
    assert all(end.stats.drafted > 0 for end in ends if end.stats is not None)
    assert all(end.stats.missed_drafts <= 2 for end in ends if end.stats is not None)
    ours.close()


def test_a_drafter_that_does_not_join_replaces_all(rig: Rig) -> None:
    slow_down(rig, 0.005)
    rig.attach_model()
    rig.attach_model(joins=True)
    running = Running(rig, submits())
    running.wait_for(60)
    rig.attach_model()
    wait_until(lambda: len(rig.ports.attached) == 1)
    running.check()
    assert rig.ports.num_losses == 0


def test_drafters_forget_the_requests_they_no_longer_have(rig: Rig) -> None:
    rig.attach_model()
    rig.attach_model(joins=True)
    Running(rig, submits()).check()
    wait_until(lambda: all(not port.closed for port in rig.ports.attached))
