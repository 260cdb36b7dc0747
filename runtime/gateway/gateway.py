"""Between clients and engines: links to the engines, and a journal of each request's tokens.

Lives on one asyncio loop. A journal outlives its client for a while, so that a broken stream can
resume; and it outlives the engine, so that another one continues after the committed tokens:
nothing is lost, changed or repeated.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

from parallel.messages import EngineStatus, Submit
from runtime.distillation.traffic import TrafficLog
from runtime.errors import PacelineError
from runtime.gateway.engine_dispatch import EngineDispatch
from runtime.gateway.journal import OpenRequest
from runtime.gateway.journal_store import JournalStore
from runtime.gateway.limits import GatewayDown, GatewayLimits, RequestRejected
from runtime.gateway.metrics import ServiceMetrics
from runtime.gateway.replica import Replica
from runtime.gateway.request_endings import Endings
from runtime.gateway.request_recorder import RequestRecorder
from runtime.gateway.request_table import RequestTable
from runtime.gateway.round_feed import RoundFeed
from runtime.links.link import Link

_PING_S = 1.0
_WATCH_S = 0.2


class Gateway:
    """Submits requests to engines and gives their tokens to readers."""

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
            limits: how many requests are accepted.
            recovers: whether a lost engine is restarted (`attach`), so that its requests wait.
            store: keeps journals on disk, and has those of an earlier process; None keeps none.
            traffic: keeps answers for training a drafter; None keeps none.
            metrics: counts and times; None makes new ones.
        """
        self.limits = limits
        self.metrics = metrics or ServiceMetrics()
        self._store = store
        self._table = RequestTable(store.restored if store is not None else ())
        self._recorder = RequestRecorder(self._table, self.metrics, store, traffic)
        self.rounds = RoundFeed()
        """What the engines report of their rounds, for those who watch."""
        self._dispatch = EngineDispatch(
            links, self._table, self._recorder, self.rounds, recovers=recovers
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started_s = time.monotonic()
        self._draining = self._is_cut = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Listen to the engines and run restored requests."""
        self._loop = asyncio.get_running_loop()
        self._dispatch.start()
        self._tasks = [
            asyncio.create_task(self._tend_requests()),
            asyncio.create_task(self._tend_watchers()),
        ]
        if self._store is not None:
            self._tasks.append(asyncio.create_task(self._tend_store(self._store)))

    async def close(self) -> None:
        """Stop; open requests end as UNAVAILABLE, so that clients resume elsewhere."""
        for task in self._tasks:
            task.cancel()
        self.rounds.close()
        self._recorder.close_store()
        self._dispatch.close()

    # --- engines, from any thread -------------------------------------------------------------

    def attach(self, replica: int, link: Link) -> None:
        """Use a restarted engine; the requests that wait for one run."""
        self._call_soon(self._dispatch.attach, replica, link)

    def lose(self, replica: int, error: PacelineError) -> None:
        """Mark an engine as lost: its requests continue elsewhere, or wait."""
        self._call_soon(self._dispatch.engines.lose, replica, error)

    def give_up(self, replica: int, error: PacelineError) -> None:
        """Mark an engine as gone for good; without any engine, waiting requests fail."""
        self._call_soon(self._dispatch.engines.give_up, replica, error)

    def _call_soon(self, call: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None, "start() comes first"
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call, *arguments)

    # --- state ------------------------------------------------------------------------------

    @property
    def endings(self) -> Endings:
        """Counts and logs each request once, when it ends."""
        return self._recorder.endings

    @property
    def num_open(self) -> int:
        """Samples queued or running."""
        return self._table.num_open

    @property
    def replicas(self) -> Sequence[Replica]:
        """The engines, each with its latest report."""
        return self._dispatch.engines.replicas

    @property
    def status(self) -> EngineStatus:
        """The status of all engines together."""
        return self._dispatch.engines.status

    @property
    def step_age_s(self) -> float:
        """Seconds since an engine last reported."""
        return self._dispatch.engines.step_age_s

    def num_open_on(self, replica: int) -> int:
        """Return the number of samples that run on an engine."""
        return self._table.num_running_by_replica[replica]

    @property
    def adapters_in_use(self) -> set[str]:
        """The versions of adapters that samples use, queued or running."""
        return {journal.submit.adapter for _, journal in self._table.open_samples()}

    def num_open_with(self, adapter: str) -> int:
        """Return the number of samples queued or running with any version of an adapter."""
        names = (journal.submit.adapter_name for _, journal in self._table.open_samples())
        return sum(name == adapter for name in names)

    @property
    def uptime_s(self) -> float:
        """Seconds since this gateway was made."""
        return time.monotonic() - self._started_s

    @property
    def is_draining(self) -> bool:
        """Whether new requests are rejected for good."""
        return self._draining

    @property
    def is_ready(self) -> bool:
        """Whether a new request would be served soon."""
        young = self.step_age_s < self.limits.max_step_age_s
        return self._dispatch.engines.is_up and not self._draining and young

    def drain(self) -> None:
        """Reject new requests; in-flight requests continue."""
        self._draining = True

    def cut(self) -> None:
        """End `drained` now, whatever is in flight."""
        self._is_cut = True

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no request is in flight; return False if some are at the deadline."""
        deadline_s = time.monotonic() + timeout_s
        while self.num_open:
            if self._is_cut or time.monotonic() > deadline_s:
                return False
            await asyncio.sleep(0.05)
        return True

    # --- requests ---------------------------------------------------------------------------

    def submit(self, submits: Sequence[Submit], *, client: str, name: str) -> OpenRequest:
        """Queue a request, or return the client's request of that name.

        Args:
            submits: one for each of its samples; the gateway numbers them.
            client: the caller; names are unique for each client.
            name: "" for a request that cannot be resumed.

        Raises:
            RequestRejected: the name belongs to another request.
            GatewayBusy: too many requests are open.
            GatewayDown: the engine is gone or draining.
        """
        known = self.find(client, name)
        if known is not None:
            before = [_comparable(journal.submit) for journal in known.samples]
            if before != [_comparable(submit) for submit in submits]:
                raise RequestRejected(
                    f"`request_id` {name!r} belongs to another request: choose a new one"
                )
            return known
        self.check_capacity(len(submits), client)
        request = self._table.add(submits, client=client, name=name)
        self._recorder.opened(request)
        self._dispatch.run_waiting()
        return request

    def find(self, client: str, name: str) -> OpenRequest | None:
        """Return a client's request by its name."""
        return self._table.find(client, name)

    def add_reader(self, request: OpenRequest) -> None:
        """Count a reader of a request; `remove_reader` must follow."""
        request.num_readers += 1

    def remove_reader(self, request: OpenRequest, *, late: bool = False) -> None:
        """Uncount a reader. Without readers an unnamed request ends, a named one waits a while.

        Args:
            request: what it read.
            late: whether the reader's deadline passed, which ends named requests too.
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
        """Cancel a request, on demand or because its deadline passed; False if it had ended."""
        if not request.is_open:
            return False
        for journal in request.samples:
            if journal.is_open and not journal.is_cancelled:
                journal.is_cancelled, journal.is_late = True, late
                self._dispatch.cancel(request, journal)
        return True

    def forget(self, request: OpenRequest) -> None:
        """Cancel a request and drop it with its journals."""
        request.is_dropped = True
        self.cancel(request)
        if not request.is_open:
            self._recorder.dropped(request)

    def check_capacity(self, num_samples: int, client: str) -> None:
        """Raise as `submit` does unless so many more samples could be queued now."""
        down = self._dispatch.engines.down
        if down is not None:
            raise GatewayDown(f"the engine is gone: {down}")
        if self._draining:
            raise GatewayDown("the server is shutting down: try another one")
        self.limits.check(self._table.num_open_by_client, num_samples, client)

    # --- upkeep -----------------------------------------------------------------------------

    async def _tend_requests(self) -> None:
        """Ping the engines and drop journals without readers."""
        for number in count(1):
            self._dispatch.engines.ping(number)
            old_s = time.monotonic() - self.limits.grace_s
            for request in self._table.requests:
                idle = request.num_readers == 0 and request.idle_since_s < old_s
                if idle and not request.is_dropped:
                    self.forget(request)
            await asyncio.sleep(_PING_S)

    async def _tend_watchers(self) -> None:
        """Ask the engines for their rounds while a client watches them."""
        for number in count(1):
            await self.rounds.watched()
            self._dispatch.engines.ping(number, wants_rounds=True)
            await asyncio.sleep(_WATCH_S)

    async def _tend_store(self, store: JournalStore) -> None:
        """Write journals to the disk, in a task of its own because a disk may be slow."""
        while True:
            await store.compact(self._table.requests)
            await asyncio.to_thread(store.sync)
            await asyncio.sleep(_PING_S)


def _comparable(submit: Submit) -> Submit:
    """Return what two calls of one request have in common; their remaining times differ."""
    return replace(submit, request=0, timeout_s=None)
