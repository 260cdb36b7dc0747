"""Samples run on engines that are up, and continue elsewhere when an engine is lost."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from parallel.decoding.types import DecodeMode, SamplingParams, VerifierKind
from parallel.messages import Cancel, Committed, Failed, Finished, Message, Submit
from runtime.errors import DeadlineExceeded, PeerLost
from runtime.gateway.engine_dispatch import EngineDispatch
from runtime.gateway.journal import Journal, OpenRequest
from runtime.gateway.limits import GatewayDown, RequestRejected
from runtime.gateway.metrics import ServiceMetrics
from runtime.gateway.request_recorder import RequestRecorder
from runtime.gateway.request_table import RequestTable
from runtime.gateway.round_feed import RoundFeed
from runtime.links.link import Link
from runtime.links.memory_link import memory_link_pair

LOST = PeerLost("a test")


class Harness:
    """A dispatch between a table and engines that the test plays itself."""

    def __init__(self, num_engines: int) -> None:
        pairs = [memory_link_pair("gateway", f"engine {number}") for number in range(num_engines)]
        self.ends: list[Link] = [far for _, far in pairs]
        self.table = RequestTable()
        recorder = RequestRecorder(self.table, ServiceMetrics(), None, None)
        links = [near for near, _ in pairs]
        self.dispatch = EngineDispatch(links, self.table, recorder, RoundFeed(), recovers=True)

    def add(self) -> tuple[OpenRequest, Journal]:
        submit = Submit(
            request=0,
            prompt_ids=(1, 2, 3),
            sampling=SamplingParams(),
            mode=DecodeMode.AUTOREGRESSIVE,
            verifier=VerifierKind.MATCH,
            max_tokens=8,
        )
        request = self.table.add([submit], client="me", name="mine")
        self.dispatch.run_waiting()
        return request, request.samples[0]

    def received(self, engine: int) -> Message:
        message = self.ends[engine].recv(30.0)
        assert message is not None
        return message

    def attach(self, engine: int) -> None:
        near, far = memory_link_pair("gateway", f"engine {engine}")
        self.ends[engine] = far
        self.dispatch.attach(engine, near)


@asynccontextmanager
async def running(num_engines: int = 1) -> AsyncIterator[Harness]:
    made = Harness(num_engines)
    made.dispatch.start()
    yield made
    made.dispatch.close()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0)


def test_tokens_and_the_end_reach_the_journal() -> None:
    async def scenario() -> None:
        async with running() as harness:
            request, journal = harness.add()
            submit = harness.received(0)
            assert isinstance(submit, Submit)
            harness.ends[0].send(Committed(request=submit.request, token_ids=(7, 8)))
            harness.ends[0].send(Finished(request=submit.request, reason="stop"))
            await until(lambda: not request.is_open)
            assert journal.token_ids == [7, 8]

    asyncio.run(scenario())


def test_a_sample_continues_on_another_engine_after_its_committed_tokens() -> None:
    async def scenario() -> None:
        async with running(2) as harness:
            _, journal = harness.add()
            submit = harness.received(0)
            assert isinstance(submit, Submit)
            harness.ends[0].send(Committed(request=submit.request, token_ids=(7, 8)))
            await until(lambda: journal.token_ids)
            harness.dispatch.engines.lose(0, LOST)
            again = harness.received(1)
            assert isinstance(again, Submit)
            assert again.output_ids == (7, 8)

    asyncio.run(scenario())


def test_a_sample_waits_for_the_only_engine_and_runs_when_it_is_attached() -> None:
    async def scenario() -> None:
        async with running() as harness:
            harness.dispatch.engines.lose(0, LOST)
            _, journal = harness.add()
            assert journal.replica is None
            harness.attach(0)
            assert isinstance(harness.received(0), Submit)

    asyncio.run(scenario())


def test_without_any_engine_left_waiting_samples_fail() -> None:
    async def scenario() -> None:
        async with running() as harness:
            _, journal = harness.add()
            harness.dispatch.engines.lose(0, LOST)
            assert journal.is_open
            harness.dispatch.engines.give_up(0, LOST)
            assert isinstance(journal.error, GatewayDown)

    asyncio.run(scenario())


def test_a_sample_that_loses_three_engines_in_a_row_is_given_up() -> None:
    async def scenario() -> None:
        async with running() as harness:
            _, journal = harness.add()
            for _ in range(3):
                assert journal.is_open
                harness.dispatch.engines.lose(0, LOST)
                harness.attach(0)
            assert "lost 3 times in a row with this request" in str(journal.error)

    asyncio.run(scenario())


def test_only_one_suspect_runs_at_a_time() -> None:
    async def scenario() -> None:
        async with running() as harness:
            first, second = harness.add()[1], harness.add()[1]
            for _ in range(2):
                harness.dispatch.engines.lose(0, LOST)
                harness.attach(0)
            assert (first.replica, second.replica) == (0, None)
            harness.ends[0].send(Committed(request=first.submit.request, token_ids=(7,)))
            await until(lambda: second.replica == 0)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("kind", "error"),
    [("ConfigError", RequestRejected), ("DeadlineExceeded", DeadlineExceeded)],
)
def test_a_failure_in_the_engine_keeps_its_meaning(kind: str, error: type[Exception]) -> None:
    async def scenario() -> None:
        async with running() as harness:
            _, journal = harness.add()
            number = journal.submit.request
            harness.ends[0].send(Failed(request=number, kind=kind, message="why"))
            await until(lambda: not journal.is_open)
            assert isinstance(journal.error, error)
            assert str(journal.error) == "why"

    asyncio.run(scenario())


def test_closing_cancels_what_runs_and_fails_it_as_unavailable() -> None:
    async def scenario() -> Sequence[Message]:
        async with running() as harness:
            _, journal = harness.add()
        assert isinstance(journal.error, GatewayDown)
        return [harness.received(0), harness.received(0)]

    submit, cancel = asyncio.run(scenario())
    assert isinstance(submit, Submit)
    assert cancel == Cancel(request=submit.request)
