"""One suite for every Link, then what only links between processes must do."""

import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from parallel.decoding.types import DecodeMode, RngKey, SamplingParams, SparseProbs, VerifierKind
from parallel.decoding.verdict_outcomes import OutcomeDraft, VerdictOutcome
from parallel.messages import (
    Cancel,
    Committed,
    DraftItem,
    DraftOpen,
    DraftRequest,
    Failed,
    Finished,
    Hello,
    Message,
    Ping,
    Pong,
    Proposal,
    ProposalItem,
    RequestStats,
    Submit,
)
from runtime.errors import (
    PacelineError,
    PeerLost,
    PeerTimeout,
)
from runtime.links.grpc_link import GrpcLinkServer, connect_grpc
from runtime.links.link import Link
from runtime.links.link_timing import answer_pings, measure_round_trips
from runtime.links.memory_link import Faults, memory_link_pair
from runtime.links.torch_link import join_torch_link, offer_torch_link
from tests.support.waiting import threads_left_over

ROOT = Path(__file__).resolve().parent.parent.parent
TOKEN = "a-token"
HELLO = Hello(role="drafter", name="d0", vocab_size=512, capacity=4)
WAIT_S = 10.0

EVERY_KIND: list[Message] = [
    HELLO,
    DraftRequest(
        round=7,
        opened=(
            DraftOpen(
                request=1,
                key=RngKey(seed=2**64 - 1, request=3),
                sampling=SamplingParams(temperature=0.7, top_p=0.9, seed=5),
                num_prompt=3,
                capacity=64,
                send_probs=True,
            ),
        ),
        items=(
            DraftItem(request=1, epoch=0, keep=0, tail=(1, 2, 3), num_draft=4),
            DraftItem(
                request=2, epoch=3, keep=5, tail=(7,), num_draft=4, num_in_flight=2, num_outcomes=12
            ),
        ),
        closed=(9, 10),
    ),
    Proposal(
        round=7,
        items=(
            ProposalItem(
                request=1,
                epoch=0,
                base=3,
                token_ids=(8,),
                draft_probs=(SparseProbs(ids=(8, 9), probs=(0.1, 0.9)),),
            ),
            ProposalItem(request=2, epoch=1, base=0, token_ids=(), unknown=True),
            ProposalItem(
                request=3,
                epoch=1,
                base=6,
                token_ids=(4,),
                outcomes=(
                    OutcomeDraft(outcome=VerdictOutcome(0, 2**31 - 1)),
                    OutcomeDraft(outcome=VerdictOutcome(2, 5), first=3, token_ids=(1, 0)),
                ),
            ),
        ),
        draft_s=0.25,
    ),
    Submit(
        request=1,
        prompt_ids=(1, 2, 3),
        sampling=SamplingParams(),
        mode=DecodeMode.PEARL,
        verifier=VerifierKind.MATCH,
        max_tokens=8,
        draft_length=None,
        stop=("\n\n",),
    ),
    Cancel(request=1),
    Committed(request=1, token_ids=(4, 5)),
    Finished(request=1, reason="length", stats=RequestStats(rounds=3, ttft_s=0.5)),
    Failed(request=None, kind="PeerLost", message="target rank 1 is gone"),
    Ping(number=0),
    Pong(number=2**40),
]


@dataclass(frozen=True)
class Pair:
    kind: str
    leader: Link
    """The side that listens; its peer is the drafter."""
    drafter: Link


@pytest.fixture(params=["memory", "grpc", "torch"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    before = set(threading.enumerate())
    makers: dict[str, Callable[[], Iterator[Pair]]] = {
        "memory": memory_pair,
        "grpc": grpc_pair,
        "torch": torch_pair,
    }
    yield from makers[request.param]()
    assert threads_left_over(before) == []


def memory_pair() -> Iterator[Pair]:
    leader, drafter = memory_link_pair("leader", "d0")
    yield Pair("memory", leader, drafter)
    leader.close()
    drafter.close()


def grpc_pair() -> Iterator[Pair]:
    links: queue.Queue[Link] = queue.Queue()
    server = GrpcLinkServer("127.0.0.1", token=TOKEN, on_link=lambda _hello, link: links.put(link))
    drafter = connect_grpc(server.address, token=TOKEN, hello=HELLO, timeout_s=WAIT_S)
    leader = links.get(timeout=WAIT_S)
    yield Pair("grpc", leader, drafter)
    drafter.close()
    leader.close()
    server.close()


def torch_pair() -> Iterator[Pair]:
    offer = offer_torch_link("127.0.0.1", backend="gloo", timeout_s=WAIT_S)
    with ThreadPoolExecutor(2) as pool:
        ends = [
            pool.submit(join_torch_link, offer.spec, rank, name=name)
            for rank, name in enumerate(("leader", "d0"))
        ]
        leader, drafter = (end.result() for end in ends)
    yield Pair("torch", leader, drafter)
    leader.close()
    drafter.close()


def receive(link: Link) -> Message:
    message = link.recv(WAIT_S)
    assert message is not None
    return message


def test_messages_of_every_kind_arrive_equal_in_both_directions(pair: Pair) -> None:
    for message in EVERY_KIND:
        pair.leader.send(message)
        pair.drafter.send(message)
    for message in EVERY_KIND:
        assert receive(pair.drafter) == message
        assert receive(pair.leader) == message


def test_a_thousand_messages_keep_their_order(pair: Pair) -> None:
    for number in range(1000):
        pair.leader.send(Ping(number=number))
    assert [receive(pair.drafter) for _ in range(1000)] == [
        Ping(number=number) for number in range(1000)
    ]


def test_a_message_of_two_megabytes_arrives_whole(pair: Pair) -> None:
    large = Committed(request=1, token_ids=tuple(range(2**30, 2**30 + 450_000)))
    pair.drafter.send(large)
    pair.drafter.send(Ping(number=1))
    assert receive(pair.leader) == large
    assert receive(pair.leader) == Ping(number=1)


def test_recv_returns_none_when_nothing_comes_in_time(pair: Pair) -> None:
    start = time.monotonic()
    assert pair.leader.recv(0.05) is None
    assert 0.04 < time.monotonic() - start < 2.0
    assert pair.leader.recv(0) is None
    pair.drafter.send(Ping(number=1))  # the link is as good as before
    assert receive(pair.leader) == Ping(number=1)


@pytest.mark.parametrize("closer", ["leader", "drafter"])
def test_close_wakes_the_waiting_peer_with_peer_lost(pair: Pair, closer: str) -> None:
    closing, waiting = pair.leader, pair.drafter
    if closer == "drafter":
        closing, waiting = waiting, closing
    with ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(waiting.recv, 30.0)
        time.sleep(0.05)
        closing.close()
        with pytest.raises(PeerLost, match="closed") as caught:
            waiter.result(timeout=5.0)
    assert waiting.peer in str(caught.value)
    for _ in range(2):
        with pytest.raises(PeerLost):
            waiting.recv(0)
    with pytest.raises(PeerLost):
        waiting.send(Ping(number=1))


def test_what_was_sent_before_close_still_arrives(pair: Pair) -> None:
    for number in range(20):
        pair.drafter.send(Ping(number=number))
    pair.drafter.close()
    assert [receive(pair.leader) for _ in range(20)] == [Ping(number=n) for n in range(20)]
    with pytest.raises(PeerLost):
        pair.leader.recv(WAIT_S)


def test_a_closed_link_neither_sends_nor_receives(pair: Pair) -> None:
    pair.leader.close()
    pair.leader.close()
    with pytest.raises(PeerLost):
        pair.leader.send(Ping(number=1))
    with pytest.raises(PeerLost):
        pair.leader.recv(1.0)


def test_both_sides_may_close_at_once(pair: Pair) -> None:
    start = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda link: link.close(), (pair.leader, pair.drafter)))
    assert time.monotonic() - start < 5.0


def test_two_threads_may_send_at_once(pair: Pair) -> None:
    large = tuple(range(5000))  # longer than one block, so that parts could mix

    def send_all(request: int) -> None:
        for _ in range(50):
            pair.leader.send(Committed(request=request, token_ids=large))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(send_all, (0, 1)))
    received = [receive(pair.drafter) for _ in range(100)]
    for request in (0, 1):
        assert received.count(Committed(request=request, token_ids=large)) == 50


def test_round_trips_are_measured(pair: Pair) -> None:
    answering = threading.Thread(target=answer_pings, args=(pair.drafter,))
    answering.start()
    trips = measure_round_trips(pair.leader, 50)
    pair.leader.close()
    answering.join(WAIT_S)
    assert 0 < trips.p50_s <= trips.p99_s < 1.0
    assert trips.count == 50


def test_faults_happen_to_the_message_they_name(pair: Pair) -> None:
    faults = Faults().drop(nth=1).duplicate(nth=2).delay(nth=3, seconds=0.01).reorder(nth=4)
    faulty = faults.wrap(pair.leader)
    for number in range(1, 6):
        faulty.send(Ping(number=number))
    received = [receive(pair.drafter) for _ in range(5)]
    assert received == [Ping(number=number) for number in (2, 2, 3, 5, 4)]


# Links between processes

CHILD = """
import sys
from parallel.messages import Hello
from runtime.links.grpc_link import connect_grpc
from runtime.links.link_timing import answer_pings
from runtime.links.torch_link import TorchLinkSpec, join_torch_link
address, port = sys.argv[1], int(sys.argv[2])
if address != "-":
    hello = Hello(role="drafter", name="child")
    link = connect_grpc(address, token="a-token", hello=hello, timeout_s=20)
else:
    spec = TorchLinkSpec(
        host="127.0.0.1", port=port, backend="gloo", timeout_s=20, secret=sys.argv[3]
    )
    link = join_torch_link(spec, 1, name="child")
answer_pings(link)
"""


def child(address: str, port: int, secret: str = "") -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", CHILD, address, str(port), secret], cwd=ROOT)


@pytest.mark.parametrize("kind", ["grpc", "torch"])
def test_a_killed_peer_is_lost_within_seconds(kind: str) -> None:
    links: queue.Queue[Link] = queue.Queue()
    if kind == "grpc":
        server = GrpcLinkServer(
            "127.0.0.1", token=TOKEN, on_link=lambda _hello, link: links.put(link)
        )
        process = child(server.address, 0)
        link = links.get(timeout=60)
    else:
        offer = offer_torch_link("127.0.0.1", backend="gloo", timeout_s=20)
        process = child("-", offer.spec.port, offer.spec.secret)
        link = join_torch_link(offer.spec, 0, name="leader")
    try:
        assert measure_round_trips(link, 20).p50_s < 1.0
        process.send_signal(signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(PeerLost, match="child"):
            link.recv(30.0)
        assert time.monotonic() - start < 5.0
        with pytest.raises(PeerLost):
            link.send(Ping(number=1))
    finally:
        process.kill()
        process.wait()
        link.close()
        if kind == "grpc":
            server.close()


def test_an_end_without_the_secret_is_rejected() -> None:
    offer = offer_torch_link("127.0.0.1", backend="gloo", timeout_s=5)
    with ThreadPoolExecutor(1) as pool:
        guess = replace(offer.spec, secret="guessed")
        stranger = pool.submit(join_torch_link, guess, 1, name="stranger")
        with pytest.raises(PacelineError):
            join_torch_link(offer.spec, 0, name="leader")
        with pytest.raises(PacelineError):
            stranger.result(timeout=20)


def test_the_end_of_a_torch_link_whose_peer_never_comes_times_out() -> None:
    offer = offer_torch_link("127.0.0.1", backend="gloo", timeout_s=0.3)
    with pytest.raises(PeerTimeout, match="other end of leader's link"):
        join_torch_link(offer.spec, 0, name="leader")


# gRPC alone
