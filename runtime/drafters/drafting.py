"""The drafter's side: what every drafter is, and the loop that answers the leader."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from parallel.messages import DraftRequest, Hello, Proposal, ProposalItem
from runtime.clock import Clock
from runtime.errors import PeerError, PeerTimeout, ProtocolError
from runtime.heartbeat import DRAFTING, IDLE, Pulse
from runtime.links.link import Link
from runtime.timeline import Recorder, SpanKind

_LOG = logging.getLogger("paceline.drafter")
_MAX_PARTS = 1000  # of one answer; more is a generator that does not end


@dataclass(frozen=True, slots=True)
class DraftPart:
    """A part of an answer."""

    items: tuple[ProposalItem, ...]
    partial: bool = False
    """Whether another part follows."""
    num_steps: int = 0
    """Draft steps the answer took so far, one after the other."""
    can_end: bool = False
    """Whether the answer may end here, because a newer request makes the rest useless."""


class Drafter(Protocol):
    """Proposes tokens; whatever it proposes, the output is the target's."""

    @property
    def grows_trees(self) -> bool:
        """Whether it proposes trees, with the probability that each of their tokens is kept."""
        ...

    @property
    def num_successors(self) -> int:
        """How many best tokens it needs after each token that the target scored."""
        ...

    @property
    def step_s(self) -> tuple[float, ...]:
        """Predicted seconds of a step with layers 1, 2, ... at a time; may be empty."""
        ...

    @property
    def width(self) -> int | None:
        """Layers at a time that its user fixed; None leaves it to the leader."""
        ...

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:
        """Yield the drafts: in one part, or the first tokens ahead if the request asks for that."""
        ...

    def keep_alive(self) -> None:
        """Send the drafter's other ranks a sign of life."""
        ...

    def close(self) -> None:
        """End the drafter's other ranks."""
        ...


def introduction(
    drafter: Drafter,
    name: str,
    vocab_size: int | None = None,
    *,
    max_positions: int | None = None,
    joins: bool = False,
) -> Hello:
    """Return the message with which a drafter introduces itself when it connects.

    Args:
        drafter: the drafter.
        name: what the leader calls it.
        vocab_size: it reads token ids below this; None names no limit.
        max_positions: the longest text it reads, in tokens; None names no limit.
        joins: whether it drafts beside others.
    """
    return Hello(
        role="drafter",
        name=name,
        vocab_size=vocab_size,
        max_positions=max_positions,
        num_successors=drafter.num_successors,
        grows_trees=drafter.grows_trees,
        step_s=drafter.step_s,
        width=drafter.width,
        joins=joins,
    )


def received_introduction(link: Link, timeout_s: float) -> Hello:
    """Return the introduction of the drafter at the other end; close the link without one.

    Raises:
        PeerError: nothing came in time, or it left; names it.
        ProtocolError: it sent another message.
    """
    try:
        hello = link.recv(timeout_s)
        if hello is None:
            raise PeerTimeout(f"{link.peer} did not introduce itself within {timeout_s:g} s")
        if not isinstance(hello, Hello) or hello.role != "drafter":
            kind = type(hello).__name__
            raise ProtocolError(
                f"{link.peer} did not introduce itself as a drafter, but by a {kind}"
            )
    except (PeerError, ProtocolError):
        link.close()
        raise
    return hello


def proposals(
    drafter: Drafter,
    request: DraftRequest,
    clock: Clock,
    recorder: Recorder | None = None,
    *,
    is_interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[Proposal]:
    """Yield a drafter's answer to a request part by part, each with the time spent so far.

    Args:
        drafter: drafts.
        request: what for.
        clock: measures.
        recorder: records when it works.
        is_interrupted: whether a newer request waits; an answer that may end then does.
    """
    start_s = clock.now_s()
    for part in islice(drafter.answer(request), _MAX_PARTS):
        now_s = clock.now_s()
        proposal = Proposal(
            round=request.round,
            items=part.items,
            draft_s=now_s - start_s,
            partial=part.partial,
            num_steps=part.num_steps,
        )
        yield proposal
        ends = part.partial and part.can_end and is_interrupted()
        if recorder is not None and (ends or not part.partial):
            recorder.record(SpanKind.DRAFT, start_s, now_s, part.num_steps)
        if ends:
            yield replace(proposal, items=(), partial=False)
        if ends or not part.partial:
            return


def serve_drafts(
    link: Link,
    drafter: Drafter,
    clock: Clock,
    *,
    heartbeat_s: float,
    pulse: Pulse | None = None,
    recorder: Recorder | None = None,
) -> None:
    """Answer the leader until it closes the link; blocks.

    Raises:
        PeerError: a rank of the drafter's own group failed.
        ProtocolError: the leader sent something that is no draft request.
    """
    pulse = pulse or Pulse()
    requests = _Requests(link)
    while True:
        pulse.at(IDLE)
        try:
            message = requests.take(heartbeat_s)
        except PeerError as error:
            _LOG.info("leader left: %s", error)
            drafter.close()
            return
        if message is None:
            drafter.keep_alive()
            continue
        pulse.at(DRAFTING)
        for proposal in proposals(
            drafter, message, clock, recorder, is_interrupted=requests.is_one_waiting
        ):
            if not _sent(link, proposal):
                drafter.close()
                return


class _Requests:
    """The leader's requests, of which the next one can be seen while one is answered."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._next: DraftRequest | None = None

    def take(self, timeout_s: float) -> DraftRequest | None:
        """Return the next request; raises as `serve_drafts` does."""
        if self._next is not None:
            taken, self._next = self._next, None
            return taken
        message = self._link.recv(timeout_s)
        if message is not None and not isinstance(message, DraftRequest):
            raise ProtocolError(f"{self._link.peer} sent a {type(message).__name__} to a drafter")
        return message

    def is_one_waiting(self) -> bool:
        """Return whether a request has arrived, or the leader has left."""
        if self._next is None:
            try:
                self._next = self.take(0.0)
            except PeerError:
                return True  # `take` raises it again
        return self._next is not None


def _sent(link: Link, proposal: Proposal) -> bool:
    """Send a part; return False if the leader has left, which is no failure of the drafter."""
    try:
        link.send(proposal)
    except PeerError as error:
        _LOG.info("leader left: %s", error)
        return False
    return True
