"""The engines behind a gateway: their links, and the choice of an engine for each request."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import reduce

from parallel.messages import Cancel, EngineStatus, Failed, Message, Ping, Pong, Submit
from runtime.errors import PacelineError, PeerError
from runtime.gateway.limits import GatewayDown
from runtime.gateway.replica import EngineEvent, Replica, combined
from runtime.gateway.routing import PrefixRouter
from runtime.links.link import Link

_LOG = logging.getLogger("paceline.gateway")


class Engines:
    """Sends messages to engines and passes theirs on; used on the gateway's loop only."""

    def __init__(
        self,
        links: Sequence[Link],
        *,
        on_message: Callable[[int, Message], None],
        on_lost: Callable[[int], None],
        on_rounds: Callable[[int, Pong], None],
        recovers: bool,
    ) -> None:
        """Prepare to talk to engines.

        Args:
            links: one to each engine.
            on_message: called with an engine's number and its message about a request.
            on_lost: called with the number of an engine that was lost or is gone for good.
            on_rounds: called with an engine's number and its report of rounds.
            recovers: whether a supervisor restarts lost engines, and attaches them or gives up.
        """
        self.replicas = [Replica(number) for number in range(len(links))]
        self._links = links
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_rounds = on_rounds
        self._recovers = recovers
        self._router = PrefixRouter(len(links))
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Listen to all engines."""
        self._loop = asyncio.get_running_loop()
        for number, link in enumerate(self._links):
            self.attach(number, link)

    def close(self) -> None:
        """Stop listening."""
        for replica in self.replicas:
            replica.is_gone = True
            replica.detach(GatewayDown("the server has ended"))

    @property
    def down(self) -> PacelineError | None:
        """Why no engine is up or may come back; None while one is or may."""
        if all(replica.is_gone for replica in self.replicas):
            return self.replicas[0].error
        return None

    @property
    def step_age_s(self) -> float:
        """Seconds since any engine reported."""
        return min(replica.step_age_s for replica in self.replicas)

    @property
    def is_up(self) -> bool:
        """Whether any engine is up."""
        return any(replica.is_up for replica in self.replicas)

    @property
    def status(self) -> EngineStatus:
        """The status of all engines together."""
        return reduce(combined, (replica.status for replica in self.replicas))

    def attach(self, number: int, link: Link) -> None:
        """Use an engine, for the first time or after a restart."""
        self.replicas[number].attach(link, self._post)

    def lose(self, number: int, error: PacelineError) -> None:
        """Mark an engine as lost: its requests continue on others, or wait for it."""
        replica = self.replicas[number]
        if not replica.is_up:
            return
        _LOG.error("engine %d is gone: %s", number, error)
        replica.detach(error)
        replica.is_gone = not self._recovers
        self._router.forget(number)
        self._on_lost(number)

    def give_up(self, number: int, error: PacelineError) -> None:
        """Mark an engine as gone for good."""
        replica = self.replicas[number]
        replica.detach(error)
        replica.is_gone = True
        self._on_lost(number)

    def submit(self, submit: Submit, loads: Mapping[int, int]) -> int | None:
        """Send a request to an engine; return its number, or None if no engine is up now.

        Args:
            submit: the request.
            loads: the number of requests on each engine.

        Raises:
            GatewayDown: no engine is up or may come back.
        """
        while self.is_up:
            up = {r.number: loads.get(r.number, 0) for r in self.replicas if r.is_up}
            number = self._router.choose(submit.prompt_ids, up)
            if self._send(self.replicas[number], submit):
                self._router.note(number, submit.prompt_ids)
                return number
        if self.down is not None:
            raise GatewayDown(f"the engine is gone: {self.down}")
        return None

    def cancel(self, number: int, request: int) -> None:
        """Cancel a request."""
        self._send(self.replicas[number], Cancel(request=request))

    def ping(self, number: int, *, wants_rounds: bool = False) -> None:
        """Ask every engine for its status, and for the rounds since the last time."""
        for replica in self.replicas:
            self._send(replica, Ping(number=number, wants_rounds=wants_rounds))

    def _send(self, replica: Replica, message: Message) -> bool:
        if replica.link is None:
            return False
        try:
            replica.link.send(message)
        except PeerError as error:
            self.lose(replica.number, error)
            return False
        return True

    def _post(self, replica: Replica, link: Link, event: EngineEvent) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._receive, replica, link, event)

    def _receive(self, replica: Replica, link: Link, event: EngineEvent) -> None:
        if replica.link is not link:
            return  # late, from an engine that was lost
        replica.last_seen_s = time.monotonic()
        match event:
            case PacelineError():
                self.lose(replica.number, event)
            case Failed(request=None, message=text):
                self.lose(replica.number, GatewayDown(text))
            case Pong(status=status):
                replica.report(status)
                if event.rounds:
                    self._on_rounds(replica.number, event)
            case _:
                self._on_message(replica.number, event)
