"""A drafter's introduction reaches the leader, over every kind of link."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from parallel.messages import DraftRequest, Hello, Message, Ping, Proposal, ProposalItem
from runtime.clock import ManualClock
from runtime.drafters.drafting import (
    DraftPart,
    introduction,
    proposals,
    received_introduction,
    serve_drafts,
)
from runtime.drafters.lookup_drafting import LookupDrafter
from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.errors import PeerError, PeerLost, PeerTimeout, ProtocolError
from runtime.hosts.drafter_host import connect_drafter
from runtime.links.memory_link import memory_link_pair
from runtime.links.torch_link import join_torch_link, offer_torch_link
from runtime.timeline import SpanRecorder


def test_over_torch_distributed_the_introduction_is_the_first_message() -> None:
    hello = introduction(LookupDrafter(LookupSettings()), "a drafter", 48, joins=True)
    assert hello.grows_trees
    assert hello.num_successors > 0
    offer = offer_torch_link("127.0.0.1", backend="gloo", timeout_s=20)
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(connect_drafter, offer.spec, hello)
        link = join_torch_link(offer.spec, 0, name="the leader")
        assert received_introduction(link, 20) == hello
        theirs = joining.result(20)
    closing = ThreadPoolExecutor(1).submit(theirs.close)
    link.close()
    closing.result(20)


@pytest.mark.parametrize(
    ("sent", "error", "words"),
    [
        (None, PeerTimeout, "drafter did not introduce itself within 0.05 s"),
        (Ping(number=1), ProtocolError, "drafter did not .* as a drafter, but by a Ping"),
        (Hello(role="driver", name="x"), ProtocolError, "as a drafter, but by a Hello"),
    ],
)
def test_who_says_something_else_is_let_go(
    sent: Message | None, error: type[PeerError], words: str
) -> None:
    ours, theirs = memory_link_pair("drafter", "leader")
    if sent is not None:
        ours.send(sent)
    with pytest.raises(error, match=words):
        received_introduction(theirs, 0.05)
    with pytest.raises(PeerLost):
        ours.send(Ping(number=2))


class SteppingDrafter(LookupDrafter):
    """Takes a second for each part, and yields more after the last one."""

    def __init__(self, clock: ManualClock, partial: tuple[bool, ...]) -> None:
        super().__init__(LookupSettings())
        self.clock, self.partial = clock, partial

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:
        assert request.round == 7
        for partial in self.partial:
            self.clock.advance(1.0)
            yield DraftPart((), partial=partial, num_steps=0 if partial else 3)


def test_an_answer_ends_with_its_last_part_and_carries_the_time_spent() -> None:
    clock, recorder = ManualClock(), SpanRecorder(10)
    drafter = SteppingDrafter(clock, (True, False, False))
    found = list(proposals(drafter, DraftRequest(round=7), clock, recorder))
    assert [(part.round, part.draft_s, part.partial) for part in found] == [
        (7, 1.0, True),
        (7, 2.0, False),
    ]
    assert found[-1].num_steps == 3
    assert len(recorder.take()) == 1


class EndableDrafter(SteppingDrafter):
    """Sends a part a second, of which any but the first may be the last."""

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:  # noqa: ARG002
        for step, partial in enumerate(self.partial, start=1):
            self.clock.advance(1.0)
            item = ProposalItem(request=1, epoch=0, base=step, token_ids=(step,))
            yield DraftPart((item,), partial=partial, num_steps=step, can_end=step > 1)


def test_an_answer_that_may_end_does_when_a_newer_request_waits() -> None:
    clock, recorder = ManualClock(), SpanRecorder(10)
    drafter = EndableDrafter(clock, (True, True, True, False))
    waits = iter((False, True))
    found = list(
        proposals(
            drafter, DraftRequest(round=7), clock, recorder, is_interrupted=lambda: next(waits)
        )
    )
    assert [(len(part.items), part.partial, part.num_steps) for part in found] == [
        (1, True, 1),
        (1, True, 2),
        (1, True, 3),
        (0, False, 3),
    ]
    assert [(span.start_s, span.end_s) for span in recorder.take()] == [(0.0, 3.0)]


def test_the_request_that_interrupts_an_answer_is_answered_next() -> None:
    ours, theirs = memory_link_pair("leader", "drafter")
    for number in (1, 2):
        ours.send(DraftRequest(round=number))
    drafter = EndableDrafter(ManualClock(), (True, True, True, False))
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve_drafts, theirs, drafter, ManualClock(), heartbeat_s=0.02)
        found = [ours.recv(20) for _ in range(7)]
        ours.close()
        serving.result(20)
    sent = [(part.round, part.partial) for part in found if isinstance(part, Proposal)]
    assert sent == [(1, True)] * 2 + [(1, False)] + [(2, True)] * 3 + [(2, False)]


def test_a_drafter_that_never_finishes_its_answer_is_cut() -> None:
    clock = ManualClock()
    drafter = SteppingDrafter(clock, (True,) * 5000)
    assert len(list(proposals(drafter, DraftRequest(round=7), clock))) == 1000
