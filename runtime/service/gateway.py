"""Between clients and the leader: one link for all requests, and a journal of each one's tokens.

Lives on one asyncio loop. A journal outlives its client for a while, so that a stream that broke
is taken up where it was: nothing lost, changed or repeated.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from itertools import count

from parallel.messages import (
    Cancel,
    Committed,
    EngineStatus,
    Failed,
    Finished,
    Message,
    Ping,
    Pong,
    Submit,
)
from runtime.errors import ConfigError, DeadlineExceeded, PacelineError, PeerError
from runtime.links.link import Link
from runtime.service.journal import Journal, Piece, Request
from runtime.service.limits import GatewayBusy, GatewayDown, GatewayLimits, RequestRefused
from runtime.service.metrics import ServiceMetrics
from runtime.traffic import TrafficLog

_LOG = logging.getLogger("paceline.gateway")
_POLL_S = 0.5
_PING_S = 1.0
_FAILURES = {
    ConfigError.__name__: RequestRefused,
    DeadlineExceeded.__name__: DeadlineExceeded,
}
"""What a request's failure in the engine is to its client."""


class Gateway:
    """Submits requests to the leader and hands their tokens out."""

    def __init__(
        self,
        link: Link,
        limits: GatewayLimits,
        *,
        traffic: TrafficLog | None = None,
        metrics: ServiceMetrics | None = None,
    ) -> None:
        self.limits = limits
        self.metrics = metrics or ServiceMetrics()
        self.status = EngineStatus()
        """What the engine said of itself last."""
        self._link = link
        self._traffic = traffic
        self._numbers = count(1)
        self._journals: dict[int, tuple[Request, Journal]] = {}
        self._requests: dict[Request, None] = {}
        self._names: dict[tuple[str, str], Request] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started_s = self._heard_s = time.monotonic()
        self._down: PacelineError | None = None
        self._draining = False
        self._closing = threading.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to listen to the leader."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="gateway-reader", daemon=True).start()
        self._tasks = [asyncio.create_task(self._keep())]

    async def close(self) -> None:
        """Stop listening; open requests are cancelled."""
        self._closing.set()
        for task in self._tasks:
            task.cancel()
        for request in list(self._requests):
            self.cancel(request)
        self._link.close()

    # --- state ------------------------------------------------------------------------------

    @property
    def num_open(self) -> int:
        """Samples queued or running."""
        return sum(journal.is_open for _, journal in self._journals.values())

    @property
    def step_age_s(self) -> float:
        """Seconds since the engine last gave a sign of life."""
        return time.monotonic() - self._heard_s

    @property
    def uptime_s(self) -> float:
        """Seconds since this gateway was made."""
        return time.monotonic() - self._started_s

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused for good."""
        return self._draining

    @property
    def is_ready(self) -> bool:
        """Whether a new request would be served soon."""
        young = self.step_age_s < self.limits.max_step_age_s
        return self._down is None and not self._draining and young

    def drain(self) -> None:
        """Refuse what is new; what runs goes on."""
        self._draining = True

    async def drained(self, timeout_s: float) -> bool:
        """Wait until nothing runs any more; False if something still does at the deadline."""
        deadline_s = time.monotonic() + timeout_s
        while self.num_open:
            if time.monotonic() > deadline_s:
                return False
            await asyncio.sleep(0.05)
        return True

    # --- requests ---------------------------------------------------------------------------

    def submit(self, submits: Sequence[Submit], *, client: str, name: str) -> Request:
        """Queue a request, or return the one of this client that has the name already.

        Args:
            submits: one for each sample of it; their numbers are the gateway's to give.
            client: who asks; names are each client's own.
            name: "" for a request that nobody will take up again.

        Raises:
            RequestRefused: the name belongs to another request.
            GatewayBusy: too many requests are open.
            GatewayDown: the engine is gone or draining.
        """
        known = self.find(client, name)
        if known is not None:
            if [_essence(journal.submit) for journal in known.samples] != [
                _essence(submit) for submit in submits
            ]:
                raise RequestRefused(
                    f"request_id {name!r} belongs to another request: take a new one"
                )
            return known
        try:
            self._require_room(len(submits), client)
        except PacelineError:
            self.metrics.count_refused()
            raise
        numbered = [replace(submit, request=next(self._numbers)) for submit in submits]
        request = Request(client=client, name=name, samples=[Journal(submit=s) for s in numbered])
        for journal in request.samples:
            self._send(journal.submit)
            self._journals[journal.submit.request] = (request, journal)
        self._requests[request] = None
        if name:
            self._names[client, name] = request
        return request

    def find(self, client: str, name: str) -> Request | None:
        """Return a client's request by its name."""
        return self._names.get((client, name)) if name else None

    async def follow(self, request: Request, starts: Sequence[int]) -> AsyncGenerator[Piece]:
        """Yield a request's tokens from each sample's number `starts` on until all have ended.

        A reader that leaves ends an unnamed request at once, a named one after the grace time. A
        slow reader holds nothing up: tokens lie in the journal, which max_tokens bounds.

        Raises:
            PacelineError: the request or the engine failed.
        """
        places = list(starts)
        ended = [False] * len(places)
        with self._reading(request):
            while not all(ended):
                changed, quiet = request.changed, True
                for index, journal in enumerate(request.samples):
                    piece = journal.piece(index, places[index])
                    if piece is not None:
                        places[index] += len(piece.token_ids)
                    elif journal.error is not None:
                        raise journal.error
                    elif journal.finished is not None and not ended[index]:
                        ended[index] = True
                        piece = Piece(sample=index, finished=journal.finished)
                    if piece is not None:
                        quiet = False
                        yield piece
                if quiet and not all(ended):
                    await changed.wait()

    def cancel(self, request: Request) -> bool:
        """End a request; False if it had ended."""
        if not request.is_open:
            return False
        for journal in request.samples:
            if journal.is_open:
                with contextlib.suppress(PeerError):  # an engine that is gone decodes nothing
                    self._link.send(Cancel(request=journal.submit.request))
        return True

    def forget(self, request: Request) -> None:
        """Drop a request and its journals; one that runs is ended."""
        self.cancel(request)
        for journal in request.samples:
            self._journals.pop(journal.submit.request, None)
        self._requests.pop(request, None)
        if self._names.get((request.client, request.name)) is request:
            del self._names[request.client, request.name]

    def _require_room(self, num_samples: int, client: str) -> None:
        if self._down is not None:
            raise GatewayDown(f"the engine is gone: {self._down}")
        if self._draining:
            raise GatewayDown("the server is shutting down: try another one")
        open_by_client = Counter(
            request.client for request, journal in self._journals.values() if journal.is_open
        )
        for num, most, whose in (
            (open_by_client.total(), self.limits.max_open, "the server's"),
            (open_by_client[client], self.limits.max_open_per_client, "this client's"),
        ):
            if num + num_samples > most:
                raise GatewayBusy(
                    f"{num} requests are open, {most} are {whose} most: try again later"
                )

    @contextlib.contextmanager
    def _reading(self, request: Request) -> Iterator[None]:
        request.num_readers += 1
        try:
            yield
        finally:
            request.num_readers -= 1
            request.idle_since_s = time.monotonic()
            if request.num_readers == 0 and not request.name:
                self.forget(request)

    # --- the leader -------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        try:
            self._link.send(message)
        except PeerError as error:
            self._fail(error)
            raise GatewayDown(f"the engine is gone: {error}") from error

    async def _keep(self) -> None:
        """Look after the leader's age and drop journals nobody reads."""
        for number in count(1):
            if self._down is None:
                try:
                    self._link.send(Ping(number=number))
                except PeerError as error:
                    self._fail(error)
            old_s = time.monotonic() - self.limits.grace_s
            for request in list(self._requests):
                if request.num_readers == 0 and request.idle_since_s < old_s:
                    self.forget(request)
            await asyncio.sleep(_PING_S)

    def _read(self) -> None:
        """Hand what the leader says to the loop (a thread of its own: links block)."""
        assert self._loop is not None
        while not self._closing.is_set():
            try:
                message: Message | PacelineError | None = self._link.recv(_POLL_S)
            except PacelineError as error:
                message = error
            if message is None:
                continue
            try:
                self._loop.call_soon_threadsafe(self._take, message)
            except RuntimeError:  # the loop has ended
                return
            if isinstance(message, PacelineError):
                return

    def _take(self, message: Message | PacelineError) -> None:
        self._heard_s = time.monotonic()
        match message:
            case Committed(request=number):
                known = self._journals.get(number)
                if known is not None:
                    known[1].take(message, self.metrics)
                    known[0].touch()
            case Finished(request=number):
                known = self._journals.get(number)
                if known is not None:
                    self._finish(*known, message)
            case Failed(request=None, message=text):
                self._fail(GatewayDown(text))
            case Failed(request=number) if number is not None:
                known = self._journals.get(number)
                if known is not None:
                    kind = _FAILURES.get(message.kind, PacelineError)
                    self._end_badly(*known, kind(message.message))
            case PacelineError():
                self._fail(message)
            case Pong(status=status):
                self.status = status
            case _:
                _LOG.warning("the leader sent an unexpected %s", type(message).__name__)

    def _finish(self, request: Request, journal: Journal, finished: Finished) -> None:
        journal.finished = finished
        request.touch()
        self.metrics.count_finished(finished)
        _LOG.info("finished", extra=journal.report(request))
        self._keep_answer(journal, finished)

    def _end_badly(self, request: Request, journal: Journal, error: PacelineError) -> None:
        journal.error = error
        request.touch()
        self.metrics.count_failed(type(error).__name__)
        _LOG.info("failed", extra=journal.report(request))

    def _keep_answer(self, journal: Journal, finished: Finished) -> None:
        """Keep a whole answer for a drafter to learn from, where that is wanted."""
        if self._traffic is None or finished.reason == "cancelled":
            return
        try:
            self._traffic.append(journal.submit, journal.token_ids)
        except OSError as error:  # a full disk must not end the service
            _LOG.warning("traffic is kept no longer: %s", error)
            self._traffic = None

    def _fail(self, error: PacelineError) -> None:
        if self._down is None and not self._closing.is_set():
            _LOG.error("the engine is gone: %s", error)
        self._down = self._down or error
        for request, journal in self._journals.values():
            if journal.is_open:
                self._end_badly(request, journal, GatewayDown(f"the engine is gone: {error}"))


def _essence(submit: Submit) -> Submit:
    """Return what two calls of one request have in common: each has its own time left."""
    return replace(submit, request=0, timeout_s=0.0)
