"""All drafters of a leader: they attach and leave, and each request is assigned to one."""

import logging
import math
from collections import Counter
from collections.abc import Sequence as Items
from itertools import count

from parallel.messages import Hello
from runtime.clock import Clock
from runtime.engine.drafter_port import DrafterPort
from runtime.engine.sequence import DecodingSequence
from runtime.links.link import Link

_LOG = logging.getLogger("paceline.leader")
_MAX_SUCCESSORS = 64  # each costs the target's ranks an exchange of as many scores


class DrafterPorts:
    """The attached drafters, and which request each one has."""

    def __init__(self, clock: Clock, *, vocab_size: int, wait_budget_s: float) -> None:
        self._clock = clock
        self.vocab_size = vocab_size
        """Tokens the target knows."""
        self._numbers = count(1)
        self._ports: dict[int, DrafterPort] = {}
        self._num_lost = self._num_faults = 0
        self.wait_budget_s = wait_budget_s
        """Longest wait for drafts that are due."""

    @property
    def attached(self) -> list[DrafterPort]:
        """The drafters that are there, the oldest first."""
        return [port for port in self._ports.values() if port.is_attached]

    @property
    def name(self) -> str:
        """The oldest drafter's name; "" without one."""
        return next((port.name for port in self.attached), "")

    @property
    def num_losses(self) -> int:
        """Times a drafter vanished."""
        return self._num_lost + sum(port.is_lost for port in self._ports.values())

    @property
    def num_faults(self) -> int:
        """Wrong answers and failures of all drafters so far."""
        return self._num_faults + sum(port.num_faults for port in self._ports.values())

    def attach(self, hello: Hello, link: Link) -> bool:
        """Attach a drafter that connected; unless it joins the others, it replaces them.

        Returns:
            False if its introduction is invalid: its link is closed, and the others stay.
        """
        problem = problem_of_hello(hello)
        if problem:
            _LOG.error("drafter %s is rejected: %s", hello.name, problem)
            link.close()
            return False
        if not hello.joins:
            self.close()
        number = next(self._numbers)
        self._ports[number] = DrafterPort(
            number,
            hello,
            link,
            self._clock,
            vocab_size=self.vocab_size,
            wait_budget_s=self.wait_budget_s,
        )
        _LOG.info("drafter %s attached", hello.name)
        return True

    def leave(self, name: str) -> None:
        """Detach a drafter; its requests continue with others, or without."""
        for port in self.attached:
            if port.name == name:
                port.close()

    def close(self) -> None:
        """Detach all drafters."""
        for port in self.attached:
            port.close()

    def of(self, sequence: DecodingSequence) -> DrafterPort | None:
        """Return the drafter that has a request."""
        port = None if sequence.drafter is None else self._ports.get(sequence.drafter)
        return port if port is not None and port.is_attached else None

    def release(self, sequence: DecodingSequence) -> None:
        """Have a request's drafter forget it, with the next request for drafts."""
        port = self.of(sequence)
        if port is not None and sequence.known_to_drafter:
            port.closed.append(sequence.number)
        sequence.known_to_drafter = False

    def share_out(self, sequences: Items[DecodingSequence]) -> None:
        """Give every request a drafter.

        A request stays with its drafter, which has read it, unless that one is lost or behind, or
        another one has nothing to do.
        """
        for number in [n for n, port in self._ports.items() if not port.is_attached]:
            lost = self._ports.pop(number)
            self._num_lost += lost.is_lost
            self._num_faults += lost.num_faults
        usable = [port for port in self.attached if not port.is_behind] or self.attached
        numbers = [port.number for port in usable]
        for sequence in sequences:
            if sequence.drafter not in numbers:
                self._assign(sequence, None)
        if not numbers:
            return
        loads = Counter(dict.fromkeys(numbers, 0))
        loads.update(s.drafter for s in sequences if s.drafter is not None)
        for sequence in sequences:
            if sequence.drafter is None:
                self._move(sequence, min(numbers, key=lambda n: loads[n]), loads)
        if min(loads.values()) == 0:
            self._even_out(sequences, loads)

    def _even_out(self, sequences: Items[DecodingSequence], loads: Counter[int]) -> None:
        for sequence in sequences:
            idlest = min(loads, key=lambda n: loads[n])
            if sequence.drafter is not None and loads[sequence.drafter] - loads[idlest] > 1:
                self._move(sequence, idlest, loads)

    def _move(self, sequence: DecodingSequence, number: int, loads: Counter[int]) -> None:
        if sequence.drafter is not None:
            loads[sequence.drafter] -= 1
        loads[number] += 1
        self._assign(sequence, number)

    def _assign(self, sequence: DecodingSequence, number: int | None) -> None:
        self.release(sequence)
        sequence.drafter = number


def problem_of_hello(hello: Hello) -> str:
    """Return what is invalid in a drafter's introduction; "" if nothing is."""
    if not 0 <= hello.num_successors <= _MAX_SUCCESSORS:
        return f"num_successors is {hello.num_successors}, {_MAX_SUCCESSORS} at most"
    if not all(math.isfinite(step_s) and step_s > 0 for step_s in hello.step_s):
        return f"step_s is {hello.step_s}: seconds must be above 0"
    for name in ("vocab_size", "max_positions", "width"):
        value = getattr(hello, name)
        if value is not None and value < 1:
            return f"{name} is {value}: it must be at least 1"
    return ""
