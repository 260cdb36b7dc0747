"""Between clients and engines: a link to each engine, and a journal of each request's tokens.

Lives on one asyncio loop. A journal outlives its client for a while, so that a stream that broke
is taken up where it was; and it outlives the engine, so that another one goes on after the tokens
that are final: nothing lost, changed or repeated.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

from parallel.messages import Committed, EngineStatus, Failed, Finished, Message, Submit
from runtime.distillation.traffic import TrafficLog
from runtime.errors import ConfigError, DeadlineExceeded, PacelineError
from runtime.gateway.engines import Engines
from runtime.gateway.journal import Journal, OpenRequest
from runtime.gateway.journal_store import JournalStore
from runtime.gateway.limits import GatewayDown, GatewayLimits, RequestRefused
from runtime.gateway.metrics import ServiceMetrics
from runtime.gateway.replica import Replica
from runtime.gateway.request_endings import Endings
from runtime.gateway.request_table import Register
from runtime.links.link import Link

_LOG = logging.getLogger("paceline.gateway")
_PING_S = 1.0
_FAILURES = {
    ConfigError.__name__: RequestRefused,
    DeadlineExceeded.__name__: DeadlineExceeded,
}
"""What a request's failure in the engine is to its client."""


class Gateway:
    """Submits requests to engines and hands their tokens out."""

    def __init__(
        self,
        links: Sequence[Link],
        limits: GatewayLimits,
        *,
        recovers: bool = False,
        store: JournalStore | None = None,
        traffic: TrafficLog | None = None,
        metrics: ServiceMetrics | None = None,
    ) -> None:
        """Prepare to serve.

        Args:
            links: one to each engine; all run the same target.
            limits: how much is taken on.
            recovers: whether a lost engine comes back (`attach`), so that its requests wait.
            store: where journals outlive this process, and what an earlier one left.
            traffic: where answers are kept.
            metrics: where is counted.
        """
        self.limits = limits
        self.metrics = metrics or ServiceMetrics()
        self.endings = Endings(self.metrics)
        self._engines = Engines(links, take=self._take, lost=self._replay, recovers=recovers)
        self._store = store
        self._traffic = traffic
        self._register = Register(store.restored if store is not None else ())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started_s = time.monotonic()
        self._draining = self._is_cut = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to listen to the engines."""
        self._loop = asyncio.get_running_loop()
        self._engines.start()
        self._run_waiting()
        self._tasks = [asyncio.create_task(self._keep())]
        if self._store is not None:
            self._tasks.append(asyncio.create_task(self._tend(self._store)))

    async def close(self) -> None:
        """Stop listening; open requests end as UNAVAILABLE, so that clients resume elsewhere."""
        for task in self._tasks:
            task.cancel()
        store, self._store = self._store, None
        if store is not None:  # first: what is cut off here, another process goes on with
            store.close()
        down = GatewayDown("the server has shut down: resume at another one")
        for request, journal in self._register.open_samples():
            if journal.replica is not None:
                self._engines.cancel(journal.replica, journal.submit.request)
            self._end_badly(request, journal, down)
        self._engines.close()

    # --- engines, from any thread -------------------------------------------------------------

    def attach(self, replica: int, link: Link) -> None:
        """Take a lost engine's successor; what waited for it runs."""
        self._soon(self._attach, replica, link)

    def lose(self, replica: int, error: PacelineError) -> None:
        """Take an engine for lost: what ran on it goes on elsewhere, or waits."""
        self._soon(self._engines.lose, replica, error)

    def give_up(self, replica: int, error: PacelineError) -> None:
        """Take an engine for gone for good; with the last one, what waits has failed."""
        self._soon(self._engines.give_up, replica, error)

    def _soon(self, call: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None, "start() comes first"
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call, *arguments)

    # --- state ------------------------------------------------------------------------------

    @property
    def num_open(self) -> int:
        """Samples queued or running."""
        return self._register.num_open

    @property
    def replicas(self) -> Sequence[Replica]:
        """The engines, each with what it said of itself last."""
        return self._engines.replicas

    @property
    def status(self) -> EngineStatus:
        """What all engines do together."""
        return self._engines.status

    @property
    def step_age_s(self) -> float:
        """Seconds since an engine last gave a sign of life."""
        return self._engines.step_age_s

    def num_open_on(self, replica: int) -> int:
        """Samples queued or running on one engine."""
        return self._register.num_running_by_replica[replica]

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
        return self._engines.is_up and not self._draining and young

    def drain(self) -> None:
        """Refuse what is new; what runs goes on."""
        self._draining = True

    def cut(self) -> None:
        """End `drained` now, whatever runs."""
        self._is_cut = True

    async def drained(self, timeout_s: float) -> bool:
        """Wait until nothing runs any more; False if something still does at the deadline."""
        deadline_s = time.monotonic() + timeout_s
        while self.num_open:
            if self._is_cut or time.monotonic() > deadline_s:
                return False
            await asyncio.sleep(0.05)
        return True

    # --- requests ---------------------------------------------------------------------------

    def submit(self, submits: Sequence[Submit], *, client: str, name: str) -> OpenRequest:
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
        self.require_room(len(submits), client)
        request = self._register.add(submits, client=client, name=name)
        if self._store is not None:
            self._store.opened(request)
        self._run_waiting()
        return request

    def find(self, client: str, name: str) -> OpenRequest | None:
        """Return a client's request by its name."""
        return self._register.find(client, name)

    def join(self, request: OpenRequest) -> None:
        """Take in a reader of a request; `leave` follows, whatever becomes of the reader."""
        request.num_readers += 1

    def leave(self, request: OpenRequest, *, late: bool = False) -> None:
        """Let a reader go: the last one of an unnamed request ends it, a named one waits a while.

        Args:
            request: what it read.
            late: whether its deadline passed; that is a client's last word, named or not.
        """
        request.num_readers -= 1
        request.idle_since_s = time.monotonic()
        if request.num_readers:
            return
        if late:
            self.cancel(request, late=True)
        if not request.name:
            self.forget(request)

    def cancel(self, request: OpenRequest, *, late: bool = False) -> bool:
        """End a request, because its deadline passed or it was asked for; False if it had ended."""
        if not request.is_open:
            return False
        for journal in request.samples:
            if not journal.is_open or journal.is_cancelled:
                continue
            journal.is_cancelled, journal.is_late = True, late
            if journal.replica is not None:
                self._engines.cancel(journal.replica, journal.submit.request)
            else:
                self._dispatch(request, journal)
        return True

    def forget(self, request: OpenRequest) -> None:
        """Drop a request and its journals; one that runs is ended first."""
        request.is_dropped = True
        self.cancel(request)
        if not request.is_open:
            self._drop(request)

    def _drop(self, request: OpenRequest) -> None:
        self._register.drop(request)
        if self._store is not None:
            self._store.dropped(request)

    def require_room(self, num_samples: int, client: str) -> None:
        """Raise as `submit` does unless so many samples more could be queued now."""
        if self._engines.down is not None:
            raise GatewayDown(f"the engine is gone: {self._engines.down}")
        if self._draining:
            raise GatewayDown("the server is shutting down: try another one")
        self.limits.check(self._register.num_open_by_client, num_samples, client)

    # --- what engines do ----------------------------------------------------------------------

    def _dispatch(self, request: OpenRequest, journal: Journal) -> None:
        """Let an engine do what is missing; without one the request waits, or has failed."""
        number = journal.submit.request
        journal.replica = None
        if journal.is_cancelled:
            self._finish(request, journal, Finished(request=number, reason="cancelled"))
            return
        if journal.is_given_up:
            text = f"the engine was lost {journal.num_stalled} times in a row with this request"
            self._end_badly(request, journal, PacelineError(f"{text}: it is not tried again"))
            return
        if journal.is_suspect and self._register.is_suspect_running:
            return  # until that one has brought a token, or ended
        loads = self._register.num_running_by_replica
        try:
            journal.replica = self._engines.submit(journal.resumption(), loads)
        except GatewayDown as error:
            self._end_badly(request, journal, error)
            return
        journal.num_sent += journal.replica is not None

    def _attach(self, replica: int, link: Link) -> None:
        if self._engines.replicas[replica].is_up:  # its older link is of no use any longer
            self._engines.lose(replica, GatewayDown("another link came in its place"))
        self._engines.attach(replica, link)
        self._run_waiting()

    def _run_waiting(self) -> None:
        for request, journal in self._register.open_samples():
            if journal.replica is None:
                self._dispatch(request, journal)

    def _replay(self, replica: int) -> None:
        """Let others go on with what ran on an engine that was lost, after the final tokens.

        What waits for an engine is left alone: it may be just on its way to another one.
        """
        down = self._engines.down is not None
        for request, journal in self._register.open_samples():
            if down or journal.replica == replica:
                journal.num_stalled += journal.replica == replica
                self._dispatch(request, journal)

    async def _keep(self) -> None:
        """Look after the engines' ages and drop journals nobody reads."""
        for number in count(1):
            self._engines.ping(number)
            old_s = time.monotonic() - self.limits.grace_s
            for request in self._register.requests:
                idle = request.num_readers == 0 and request.idle_since_s < old_s
                if idle and not request.is_dropped:
                    self.forget(request)
            await asyncio.sleep(_PING_S)

    async def _tend(self, store: JournalStore) -> None:
        """Bring journals to the disk: in a task of its own, because a disk may be slow."""
        while True:
            await store.tend(self._register.requests)
            await asyncio.to_thread(store.sync)
            await asyncio.sleep(_PING_S)

    def _take(self, replica: int, message: Message) -> None:
        """Take in what an engine says of a request that runs on it."""
        match message:
            case Committed() | Finished() | Failed():
                number = message.request
            case _:
                _LOG.warning("engine %d sent an unexpected %s", replica, type(message).__name__)
                return
        known = self._register.sample(number) if number is not None else None
        if known is None or known[1].replica != replica:
            return
        request, journal = known
        match message:
            case Committed():
                if self._store is not None:
                    self._store.committed(message)
                self._let_next_suspect_run(journal)  # soon: once this one has its token
                journal.take(message, self.metrics)
                request.touch()
            case Finished():
                self._finish(request, journal, message)
            case Failed():
                kind = _FAILURES.get(message.kind, PacelineError)
                self._end_badly(request, journal, kind(message.message))

    def _finish(self, request: OpenRequest, journal: Journal, finished: Finished) -> None:
        if journal.is_late and finished.reason == "cancelled":
            error = f"its deadline of {journal.submit.timeout_s:.3g} s passed"
            self._end_badly(request, journal, DeadlineExceeded(error))
            return
        journal.end(finished)
        self._ended(request, journal)
        self.metrics.count_sample(finished, len(journal.token_ids))
        self._keep_answer(journal, finished)

    def _end_badly(self, request: OpenRequest, journal: Journal, error: PacelineError) -> None:
        if not journal.is_open:
            return
        journal.fail(error)
        self._ended(request, journal)

    def _ended(self, request: OpenRequest, journal: Journal) -> None:
        self._register.ended(journal)
        self._let_next_suspect_run(journal)
        if self._store is not None:
            self._store.ended(journal)
        if not request.is_open:
            self.endings.ended(request)
            if request.is_dropped:
                self._drop(request)
        request.touch()

    def _let_next_suspect_run(self, journal: Journal) -> None:
        """Begin with another suspect, if this one has kept it waiting."""
        if journal.is_suspect and self._loop is not None:
            self._loop.call_soon(self._run_waiting)

    def _keep_answer(self, journal: Journal, finished: Finished) -> None:
        """Keep a whole answer for a drafter to learn from, where that is wanted."""
        if self._traffic is None or finished.reason == "cancelled":
            return
        try:
            self._traffic.append(journal.submit, journal.token_ids)
        except OSError as error:  # a full disk must not end the service
            _LOG.warning("traffic is kept no longer: %s", error)
            self._traffic = None


def _essence(submit: Submit) -> Submit:
    """Return what two calls of one request have in common: each has its own time left."""
    return replace(submit, request=0, timeout_s=None)
