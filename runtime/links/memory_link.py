"""Links inside one process, and faults that wrap any link: the fakes for tests."""

import threading
import time
from dataclasses import dataclass, replace

from parallel.messages import Message
from runtime.errors import PeerLost
from runtime.links.inbox import Inbox
from runtime.links.link import Link


class MemoryLink:
    """One end of a pair of in-process queues."""

    def __init__(self, name: str, peer: str, *, inbox: Inbox, outbox: Inbox) -> None:
        self._name = name
        self._peer = peer
        self._inbox = inbox
        self._outbox = outbox

    @property
    def peer(self) -> str:
        """The other side's name."""
        return self._peer

    def send(self, message: Message) -> None:
        """Deliver the message; raises PeerLost once either side has closed."""
        if self._inbox.end is not None:
            raise self._inbox.end
        self._outbox.put(message)

    def recv(self, timeout_s: float) -> Message | None:
        """Return the next message or None; see `Link.recv`."""
        return self._inbox.get(timeout_s)

    def close(self) -> None:
        """End both directions."""
        self._outbox.fail(PeerLost(f"{self._name} closed the link"))
        self._inbox.fail(PeerLost(f"the link to {self._peer} is closed"))


def memory_link_pair(name_a: str, name_b: str) -> tuple[Link, Link]:
    """Return the ends of `name_a` and `name_b`; the first one's peer is `name_b`."""
    to_a, to_b = Inbox(), Inbox()
    link_a = MemoryLink(name_a, name_b, inbox=to_a, outbox=to_b)
    return link_a, MemoryLink(name_b, name_a, inbox=to_b, outbox=to_a)


@dataclass(frozen=True, slots=True)
class _Fault:
    nth: int
    kind: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults of the messages sent through a link, counted from 1.

    `Faults().drop(nth=3).delay(nth=5, seconds=0.05).wrap(link)`
    """

    faults: tuple[_Fault, ...] = ()

    def drop(self, *, nth: int) -> "Faults":
        """Drop the nth message."""
        return self._with(_Fault(nth, "drop"))

    def duplicate(self, *, nth: int) -> "Faults":
        """Send the nth message twice."""
        return self._with(_Fault(nth, "duplicate"))

    def delay(self, *, nth: int, seconds: float) -> "Faults":
        """Block the sender for `seconds` before the nth message."""
        return self._with(_Fault(nth, "delay", seconds))

    def reorder(self, *, nth: int) -> "Faults":
        """Hold the nth message back until the next one has been sent."""
        return self._with(_Fault(nth, "reorder"))

    def cut(self, *, nth: int) -> "Faults":
        """Close the link instead of sending the nth message."""
        return self._with(_Fault(nth, "cut"))

    def wrap(self, link: Link) -> "FaultyLink":
        """Return a link whose sent messages have these faults."""
        return FaultyLink(link, self)

    def _with(self, fault: _Fault) -> "Faults":
        if fault.nth < 1:
            raise ValueError(f"nth is {fault.nth}: messages are counted from 1")
        return replace(self, faults=(*self.faults, fault))


class FaultyLink:
    """A link that applies `Faults` to the messages it sends."""

    def __init__(self, link: Link, faults: Faults) -> None:
        self._link = link
        self._faults = faults
        self._lock = threading.Lock()
        self._num_sent = 0
        self._held: list[Message] = []

    @property
    def peer(self) -> str:
        """The other side's name."""
        return self._link.peer

    def send(self, message: Message) -> None:
        """Send the message, or apply the fault of its number."""
        with self._lock:
            self._num_sent += 1
            mine = {fault.kind: fault for fault in self._faults.faults if self._is_due(fault)}
            if "cut" in mine:
                self._link.close()
            if "delay" in mine:
                time.sleep(mine["delay"].seconds)
            if "reorder" in mine:
                self._held.append(message)
            elif "drop" not in mine:
                for _ in range(2 if "duplicate" in mine else 1):
                    self._link.send(message)
                while self._held:
                    self._link.send(self._held.pop(0))

    def recv(self, timeout_s: float) -> Message | None:
        """Return the next message or None; see `Link.recv`."""
        return self._link.recv(timeout_s)

    def close(self) -> None:
        """Close the wrapped link."""
        self._link.close()

    def _is_due(self, fault: _Fault) -> bool:
        return fault.nth == self._num_sent
