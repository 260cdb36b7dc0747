"""Each request ends with its last reader, and is counted and logged once, whatever the way."""

import asyncio
import gc
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakSet

import grpc
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.errors import PeerLost
from runtime.gateway.gateway import Gateway
from runtime.gateway.limits import GatewayLimits
from runtime.service.call import Call
from tests.support.rig import Rig
from tests.support.serving import Serving, slow_down
from tests.support.waiting import wait_until

PROMPT = (1, 2, 3)
STORM = 500
ROOMY = GatewayLimits(max_open=STORM, max_open_per_client=STORM)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    slow_down(made, 0.01)
    yield made
    made.close()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    """Return the log's records of requests."""
    caplog.set_level(logging.INFO, "paceline.gateway")
    words = ("request ended", "request rejected")
    return lambda: [record for record in caplog.records if record.message in words]


def ask(name: str = "", **fields: Any) -> pb.GenerateRequest:
    fields.setdefault("max_tokens", 300)
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=PROMPT), request_id=name, seed=0, ignore_eos=True, **fields
    )


def counted(serving: Serving) -> Counter[str]:
    """Return how often each end is on the page of metrics."""
    page = generate_latest(serving.gateway.metrics.registry).decode()
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in ("paceline_requests_total", "paceline_requests_rejected_total"):
                labels = sample.labels
                reason = labels.get("finished_reason") or "rejected: " + labels["reason"]
                found[reason] += int(sample.value)
            elif sample.name == "paceline_deadline_missed_total":
                found["deadline missed"] += int(sample.value)
    return +found


def finishes(_: Serving, stub: Any, name: str) -> None:
    list(stub.Generate(ask(name, max_tokens=4)))


def is_cancelled_by_name(_: Serving, stub: Any, name: str) -> None:
    stream = stub.Generate(ask(name))
    next(stream)
    if name:
        stub.Cancel(pb.CancelRequest(request_id=name))
        list(stream)
    else:
        stream.cancel()


def is_late(_: Serving, stub: Any, name: str) -> None:
    with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
        list(stub.Generate(ask(name), timeout=0.2))


def is_invalid(_: Serving, stub: Any, name: str) -> None:
    with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
        list(stub.Generate(ask(name, max_tokens=0)))


def loses_its_engine(serving: Serving, stub: Any, name: str) -> None:
    stream = stub.Generate(ask(name))
    next(stream)
    serving.gateway.give_up(0, PeerLost("a test"))
    with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
        list(stream)


def is_cut_by_a_server_that_stops(serving: Serving, stub: Any, name: str) -> None:
    stream = stub.Generate(ask(name))
    next(stream)
    assert not serving.stop(drain_s=0.1)
    with pytest.raises(grpc.RpcError, match="the server has shut down"):
        list(stream)


def is_cut_by_a_second_signal(serving: Serving, stub: Any, name: str) -> None:
    stream = stub.Generate(ask(name))
    next(stream)
    threading.Timer(0.2, serving.gateway.cut).start()
    assert not serving.stop(drain_s=600)
    with pytest.raises(grpc.RpcError, match="the server has shut down"):
        list(stream)


def comes_while_the_server_drains(serving: Serving, stub: Any, name: str) -> None:
    serving.gateway.drain()
    with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
        list(stub.Generate(ask(name)))


ENDS = [
    (finishes, {"length": 1}),
    (is_cancelled_by_name, {"cancelled": 1}),
    (is_late, {"deadline": 1, "deadline missed": 1}),
    (is_invalid, {"rejected: invalid": 1}),
    (loses_its_engine, {"error": 1}),
    (is_cut_by_a_server_that_stops, {"error": 1}),
    (is_cut_by_a_second_signal, {"error": 1}),
    (comes_while_the_server_drains, {"rejected: unavailable": 1}),
]


@pytest.mark.parametrize("name", ["", "mine"])
@pytest.mark.parametrize(("happens", "reasons"), ENDS)
def test_every_end_is_counted_and_logged_once(
    rig: Rig,
    serving: Serving,
    stub: Any,
    log: Callable[[], list[logging.LogRecord]],
    happens: Callable[[Serving, Any, str], None],
    reasons: dict[str, int],
    name: str,
) -> None:
    happens(serving, stub, name)
    wait_until(lambda: counted(serving) == reasons)
    wait_until(lambda: not rig.engine._scheduler.running)
    assert serving.gateway.num_open == 0
    (record,) = log()
    fields = record.__dict__
    assert fields["request_id"] == name
    assert fields["reason"] == next(iter(reasons)).removeprefix("rejected: ")
    if "length" in reasons:
        assert fields["completion_tokens"] == 4
    if "error" in reasons or "deadline" in reasons:
        assert fields["cause"]


@pytest.mark.parametrize("happens", [happens for happens, _ in ENDS])
def test_a_call_is_freed_when_it_ends_without_the_garbage_collector(
    serving: Serving,
    stub: Any,
    monkeypatch: pytest.MonkeyPatch,
    happens: Callable[[Serving, Any, str], None],
) -> None:
    """A cycle of few objects can hold a message of megabytes until the collector finds it."""
    known: WeakSet[Call] = WeakSet()
    clients = []
    begin = Call.begin

    def noted(call: Call, *arguments: Any) -> None:
        known.add(call)
        clients.append(arguments[1])
        begin(call, *arguments)

    monkeypatch.setattr(Call, "begin", noted)
    gc.disable()
    try:
        happens(serving, stub, "")
        assert len(clients) == 1
        wait_until(lambda: not known)
    finally:
        gc.enable()


def test_a_message_that_cannot_be_read_is_a_rejected_request(
    serving: Serving, log: Callable[[], list[logging.LogRecord]]
) -> None:
    with grpc.insecure_channel(serving.address) as channel:
        call = channel.unary_stream(
            "/paceline.v1.GenerationService/Generate",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        with pytest.raises(grpc.RpcError, match="could not be parsed"):
            list(call(b"\xff\xff\xff"))
    wait_until(lambda: counted(serving) == {"rejected: invalid": 1})
    (record,) = log()
    assert "could not be parsed" in record.__dict__["cause"]


def test_a_token_that_is_not_accepted_is_a_rejected_request(
    rig: Rig, log: Callable[[], list[logging.LogRecord]]
) -> None:
    serving = Serving(rig, tokens=("secret",))
    with grpc.insecure_channel(serving.address) as channel:
        stub: Any = rpc.GenerationServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            list(stub.Generate(ask(), metadata=(("authorization", "Bearer wrong"),)))
    assert counted(serving) == {"rejected: denied": 1}
    (record,) = log()
    assert (record.__dict__["reason"], record.__dict__["client"]) == ("denied", "ipv4:127.0.0.1")
    assert "wrong" not in str(record.__dict__)
    serving.close()


def test_several_samples_are_one_request(
    serving: Serving, stub: Any, log: Callable[[], list[logging.LogRecord]]
) -> None:
    list(stub.Generate(ask(n=3, temperature=1.0, max_tokens=5)))
    assert counted(serving) == {"length": 1}
    (record,) = log()
    assert record.__dict__["completion_tokens"] == 15


def test_a_named_request_without_readers_is_counted_when_its_time_is_over(rig: Rig) -> None:
    serving = Serving(rig, limits=GatewayLimits(grace_s=0.05))
    with grpc.insecure_channel(serving.address) as channel:
        stub: Any = rpc.GenerationServiceStub(channel)
        stream = stub.Generate(ask("mine"))
        next(stream)
        stream.cancel()
        wait_until(lambda: counted(serving) == {"cancelled": 1})
        wait_until(lambda: not rig.engine._scheduler.running)
        assert serving.gateway.find("ipv4:127.0.0.1", "mine") is None
    serving.close()


async def storm(address: str) -> int:
    """Make many calls, and cancel each after a random event: none, the acceptance, or tokens.

    Returns how many were answered. One that is cancelled before may never have left the client.
    """
    rng = random.Random(7)

    async def one(stub: Any) -> bool:
        call = stub.Generate(ask())
        num_events = rng.choice((0, 0, 1, 1, 1, 2, 3))
        if num_events == 0:
            await asyncio.sleep(rng.random() * 0.01)
        for _ in range(num_events):
            await call.read()
        call.cancel()
        return num_events > 0

    num_answered = 0
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = rpc.GenerationServiceStub(channel)
        await channel.channel_ready()
        for start in range(0, STORM, 50):
            answered = await asyncio.gather(*(one(stub) for _ in range(start, start + 50)))
            num_answered += sum(answered)
    return num_answered


def test_a_storm_of_cancelled_requests_leaves_nothing_running_and_counts_each(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived: list[Gateway] = []
    arrive = Call.__init__

    def noted(call: Call, gateway: Gateway) -> None:
        arrived.append(gateway)
        arrive(call, gateway)

    monkeypatch.setattr(Call, "__init__", noted)
    serving = Serving(rig, limits=ROOMY)
    num_answered = asyncio.run(storm(serving.address))
    wait_until(lambda: serving.gateway.num_open == 0)
    wait_until(lambda: rig.engine._scheduler.is_idle)
    wait_until(lambda: counted(serving).total() == len(arrived))
    assert STORM / 2 < num_answered <= len(arrived) <= STORM
    assert set(counted(serving)) == {"cancelled"}
    assert not serving.gateway._table.requests
    serving.close()
