"""The engines behind a gateway: which one gets a request, and who hears when one is lost."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import reduce

from parallel.messages import Cancel, EngineStatus, Failed, Message, Ping, Pong, Submit
from runtime.errors import PacelineError, PeerError
from runtime.gateway.limits import GatewayDown
from runtime.gateway.replica import News, Replica, added
from runtime.gateway.routing import PrefixRouter
from runtime.links.link import Link

_LOG = logging.getLogger("paceline.gateway")


class Engines:
    """Lives on the gateway's loop."""

    def __init__(
        self,
        links: Sequence[Link],
        *,
        take: Callable[[int, Message], None],
        lost: Callable[[int], None],
        recovers: bool,
    ) -> None:
        """Prepare to talk to engines.

        Args:
            links: one to each engine.
            take: told what an engine says of a request.
            lost: told that an engine was lost, or that the last one is gone for good.
            recovers: whether somebody starts a lost engine anew, and attaches it or gives it up.
        """
        self.replicas = [Replica(number) for number in range(len(links))]
        self._links = links
        self._take = take
        self._lost = lost
        self._recovers = recovers
        self._router = PrefixRouter(len(links))
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to listen."""
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
        """Why no engine is there, nor will be; None while one is or may come back."""
        if all(replica.is_gone for replica in self.replicas):
            return self.replicas[0].error
        return None

    @property
    def step_age_s(self) -> float:
        """Seconds since any engine gave a sign of life."""
        return min(replica.step_age_s for replica in self.replicas)

    @property
    def is_up(self) -> bool:
        """Whether any engine is there."""
        return any(replica.is_up for replica in self.replicas)

    @property
    def status(self) -> EngineStatus:
        """What all engines do together."""
        return reduce(added, (replica.status for replica in self.replicas))

    def attach(self, number: int, link: Link) -> None:
        """Send requests to an engine that is there (again)."""
        self.replicas[number].attach(link, self._hand_over)

    def lose(self, number: int, error: PacelineError) -> None:
        """Take an engine for lost: what ran on it runs on others, or waits for it."""
        replica = self.replicas[number]
        if not replica.is_up:
            return
        _LOG.error("engine %d is gone: %s", number, error)
        replica.detach(error)
        replica.is_gone = not self._recovers
        self._router.forget(number)
        self._lost(number)

    def give_up(self, number: int, error: PacelineError) -> None:
        """Take an engine for gone for good."""
        replica = self.replicas[number]
        replica.detach(error)
        replica.is_gone = True
        self._lost(number)

    def submit(self, submit: Submit, loads: Mapping[int, int]) -> int | None:
        """Send a request to an engine; return which, or None: it waits for one to come back.

        Args:
            submit: the request.
            loads: how many requests run on each engine.

        Raises:
            GatewayDown: there is no engine, nor will there be.
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
        """End a request early."""
        self._send(self.replicas[number], Cancel(request=request))

    def ping(self, number: int) -> None:
        """Ask every engine for a sign of life."""
        for replica in self.replicas:
            self._send(replica, Ping(number=number))

    def _send(self, replica: Replica, message: Message) -> bool:
        if replica.link is None:
            return False
        try:
            replica.link.send(message)
        except PeerError as error:
            self.lose(replica.number, error)
            return False
        return True

    def _hand_over(self, replica: Replica, link: Link, news: News) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._hear, replica, link, news)

    def _hear(self, replica: Replica, link: Link, news: News) -> None:
        if replica.link is not link:
            return  # a lost engine's last words
        replica.heard_s = time.monotonic()
        match news:
            case PacelineError():
                self.lose(replica.number, news)
            case Failed(request=None, message=text):
                self.lose(replica.number, GatewayDown(text))
            case Pong(status=status):
                replica.tell(status)
            case _:
                self._take(replica.number, news)
