"""Between clients and the leader: one link for all requests, and a journal of each one's tokens.

Lives on one asyncio loop. A journal outlives its client for a while, so that a stream that broke
is taken up where it was: nothing lost, changed or repeated.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from itertools import count

from parallel.messages import Cancel, Committed, Failed, Finished, Message, Ping, Pong, Submit
from runtime.errors import PacelineError, PeerError
from runtime.links.link import Link
from runtime.traffic import TrafficLog

_LOG = logging.getLogger("paceline.gateway")
_POLL_S = 0.5
_PING_S = 1.0


class RequestRefused(PacelineError):
    """The request itself cannot be served."""


class GatewayBusy(PacelineError):
    """There is no room for another request now."""


class GatewayDown(PacelineError):
    """The engine is gone, or is going."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLimits:
    """How much one gateway takes on."""

    max_open: int = 256
    """Requests queued or running."""
    max_open_per_client: int = 64
    grace_s: float = 30.0
    """How long a named request outlives its client, and its journal the request."""
    max_step_age_s: float = 60.0
    """Silence of the leader after which the service is not ready."""


@dataclass(slots=True, kw_only=True)
class Entry:
    """One request's journal."""

    number: int
    submit: Submit
    client: str
    name: str
    token_ids: list[int] = field(default_factory=list)
    finished: Finished | None = None
    error: PacelineError | None = None
    num_readers: int = 0
    idle_since_s: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_open(self) -> bool:
        """Whether more tokens may come."""
        return self.finished is None and self.error is None

    def touch(self) -> None:
        """Wake whoever waits for news."""
        self.changed.set()
        self.changed = asyncio.Event()


class Gateway:
    """Submits requests to the leader and hands their tokens out."""

    def __init__(
        self, link: Link, limits: GatewayLimits, *, traffic: TrafficLog | None = None
    ) -> None:
        self._link = link
        self._limits = limits
        self._traffic = traffic
        self._numbers = count(1)
        self._entries: dict[int, Entry] = {}
        self._names: dict[tuple[str, str], Entry] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heard_s = time.monotonic()
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
        for entry in [e for e in self._entries.values() if e.is_open]:
            self._cancel(entry)
        self._link.close()

    @property
    def num_open(self) -> int:
        """Requests queued or running."""
        return sum(entry.is_open for entry in self._entries.values())

    @property
    def is_ready(self) -> bool:
        """Whether a new request would be served soon."""
        age_s = time.monotonic() - self._heard_s
        return self._down is None and not self._draining and age_s < self._limits.max_step_age_s

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

    def submit(self, submit: Submit, *, client: str, name: str) -> Entry:
        """Queue a request, or return the one of this client that has the name already.

        Args:
            submit: what to generate; its number is the gateway's to give.
            client: who asks; names are each client's own.
            name: "" for a request that nobody will take up again.

        Raises:
            RequestRefused: the name belongs to another request.
            GatewayBusy: too many requests are open.
            GatewayDown: the engine is gone or draining.
        """
        known = self._names.get((client, name)) if name else None
        if known is not None:
            if replace(known.submit, request=0) != replace(submit, request=0):
                raise RequestRefused(
                    f"request_id {name!r} belongs to another request: take a new one"
                )
            return known
        if self._down is not None:
            raise GatewayDown(f"the engine is gone: {self._down}")
        if self._draining:
            raise GatewayDown("the server is shutting down: try another one")
        mine = sum(e.is_open and e.client == client for e in self._entries.values())
        for num, most in (
            (self.num_open, self._limits.max_open),
            (mine, self._limits.max_open_per_client),
        ):
            if num >= most:
                raise GatewayBusy(f"{num} requests are open, {most} are the most: try again later")
        number = next(self._numbers)
        entry = Entry(
            number=number, submit=replace(submit, request=number), client=client, name=name
        )
        entry.idle_since_s = time.monotonic()
        self._send(entry.submit)
        self._entries[number] = entry
        if name:
            self._names[client, name] = entry
        return entry

    def find(self, client: str, name: str) -> Entry | None:
        """Return a client's request by its name."""
        return self._names.get((client, name))

    async def follow(self, entry: Entry, start: int) -> AsyncGenerator[tuple[int, ...]]:
        """Yield a request's tokens from number `start` on until it ends.

        A reader that leaves ends an unnamed request at once, a named one after the grace time. A
        slow reader holds nothing up: tokens lie in the journal, which max_tokens bounds.

        Raises:
            PacelineError: the request or the engine failed.
        """
        entry.num_readers += 1
        try:
            while True:
                changed = entry.changed
                if len(entry.token_ids) > start:
                    tokens = tuple(entry.token_ids[start:])
                    start += len(tokens)
                    yield tokens
                elif entry.error is not None:
                    raise entry.error
                elif entry.finished is not None:
                    return
                else:
                    await changed.wait()
        finally:
            entry.num_readers -= 1
            entry.idle_since_s = time.monotonic()
            if entry.num_readers == 0 and not entry.name:
                self.forget(entry)

    def cancel(self, entry: Entry) -> bool:
        """End a request; False if it had ended."""
        if not entry.is_open:
            return False
        self._cancel(entry)
        return True

    def forget(self, entry: Entry) -> None:
        """Drop a request and its journal; one that runs is ended."""
        if entry.is_open:
            self._cancel(entry)
        self._entries.pop(entry.number, None)
        self._names.pop((entry.client, entry.name), None)

    def _cancel(self, entry: Entry) -> None:
        with contextlib.suppress(PeerError):  # an engine that is gone decodes nothing
            self._link.send(Cancel(request=entry.number))

    def _send(self, message: Message) -> None:
        try:
            self._link.send(message)
        except PeerError as error:
            self._fail(error)
            raise GatewayDown(f"the engine is gone: {error}") from error

    async def _keep(self) -> None:
        """Look after the leader's age and drop journals nobody reads."""
        for number in count(1):
            await asyncio.sleep(_PING_S)
            if self._down is None:
                try:
                    self._link.send(Ping(number=number))
                except PeerError as error:
                    self._fail(error)
            old_s = time.monotonic() - self._limits.grace_s
            for entry in list(self._entries.values()):
                if entry.num_readers == 0 and entry.idle_since_s < old_s:
                    self.forget(entry)

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
            case Committed(request=request, token_ids=token_ids):
                entry = self._entries.get(request)
                if entry is not None:
                    entry.token_ids.extend(token_ids)
                    entry.touch()
            case Finished(request=request):
                entry = self._entries.get(request)
                if entry is not None:
                    entry.finished = message
                    entry.touch()
                    self._keep_answer(entry, message)
            case Failed(request=None, message=text):
                self._fail(GatewayDown(text))
            case Failed(request=request, message=text) if request is not None:
                entry = self._entries.get(request)
                if entry is not None:
                    entry.error = RequestRefused(text)
                    entry.touch()
            case PacelineError():
                self._fail(message)
            case Pong():
                pass
            case _:
                _LOG.warning("the leader sent an unexpected %s", type(message).__name__)

    def _keep_answer(self, entry: Entry, finished: Finished) -> None:
        """Keep a whole answer for a drafter to learn from, where that is wanted."""
        if self._traffic is None or finished.reason == "cancelled":
            return
        try:
            self._traffic.append(entry.submit, entry.token_ids)
        except OSError as error:  # a full disk must not end the service
            _LOG.warning("traffic is kept no longer: %s", error)
            self._traffic = None

    def _fail(self, error: PacelineError) -> None:
        if self._down is None and not self._closing.is_set():
            _LOG.error("the engine is gone: %s", error)
        self._down = self._down or error
        for entry in self._entries.values():
            if entry.is_open:
                entry.error = GatewayDown(f"the engine is gone: {error}")
                entry.touch()
