"""Send samples to engines, receive their tokens, and move samples off lost engines."""

import asyncio
import logging
from collections.abc import Sequence

from parallel.messages import Committed, Failed, Finished, Message
from runtime.errors import ConfigError, DeadlineExceeded, PacelineError
from runtime.gateway.engines import Engines
from runtime.gateway.journal import Journal, OpenRequest
from runtime.gateway.limits import GatewayDown, RequestRejected
from runtime.gateway.request_recorder import RequestRecorder
from runtime.gateway.request_table import RequestTable
from runtime.gateway.round_feed import RoundFeed
from runtime.links.link import Link

_LOG = logging.getLogger("paceline.gateway")
_ERRORS_BY_KIND = {
    ConfigError.__name__: RequestRejected,
    DeadlineExceeded.__name__: DeadlineExceeded,
}
"""What the failure of a request in its engine is to the client."""


class EngineDispatch:
    """Runs the samples of the table on engines; used on the gateway's loop only."""

    def __init__(
        self,
        links: Sequence[Link],
        table: RequestTable,
        recorder: RequestRecorder,
        feed: RoundFeed,
        *,
        recovers: bool,
    ) -> None:
        """Prepare to dispatch.

        Args:
            links: one to each engine.
            table: the known requests.
            recorder: records what happens to them.
            feed: receives the reports of rounds.
            recovers: whether lost engines are restarted and attached again.
        """
        self.engines = Engines(
            links,
            on_message=self._receive,
            on_lost=self._replay,
            on_rounds=feed.publish,
            recovers=recovers,
        )
        self._table = table
        self._recorder = recorder
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Listen to the engines and send them the restored requests."""
        self._loop = asyncio.get_running_loop()
        self.engines.start()
        self.run_waiting()

    def close(self) -> None:
        """Stop listening; open samples fail as GatewayDown, so that clients resume elsewhere."""
        down = GatewayDown("the server has shut down: resume at another one")
        for request, journal in self._table.open_samples():
            if journal.replica is not None:
                self.engines.cancel(journal.replica, journal.submit.request)
            self._fail(request, journal, down)
        self.engines.close()

    def attach(self, replica: int, link: Link) -> None:
        """Use a restarted engine, and send it the samples that wait."""
        if self.engines.replicas[replica].is_up:  # its older link is obsolete
            self.engines.lose(replica, GatewayDown("a new link replaces this one"))
        self.engines.attach(replica, link)
        self.run_waiting()

    def run_waiting(self) -> None:
        """Send every sample that waits to an engine."""
        for request, journal in self._table.open_samples():
            if journal.replica is None:
                self._dispatch(request, journal)

    def cancel(self, request: OpenRequest, journal: Journal) -> None:
        """End a sample that is marked as cancelled."""
        if journal.replica is not None:
            self.engines.cancel(journal.replica, journal.submit.request)
        else:
            self._dispatch(request, journal)

    def _dispatch(self, request: OpenRequest, journal: Journal) -> None:
        """Send a sample to an engine; if none is up, it waits, and if none returns, it fails."""
        number = journal.submit.request
        journal.replica = None
        if journal.is_cancelled:
            self._finish(request, journal, Finished(request=number, reason="cancelled"))
            return
        if journal.is_given_up:
            text = f"the engine was lost {journal.num_stalled} times in a row with this request"
            self._fail(request, journal, PacelineError(f"{text}: it is not tried again"))
            return
        if journal.is_suspect and self._table.is_suspect_running:
            return  # until that one has a token, or has ended
        loads = self._table.num_running_by_replica
        try:
            journal.replica = self.engines.submit(journal.resumption(), loads)
        except GatewayDown as error:
            self._fail(request, journal, error)
            return
        journal.num_sent += journal.replica is not None

    def _replay(self, replica: int) -> None:
        """Continue on other engines what ran on a lost one, after the committed tokens.

        Samples that wait stay as they are: one may be on its way to another engine at this moment.
        """
        down = self.engines.down is not None
        for request, journal in self._table.open_samples():
            if down or journal.replica == replica:
                journal.num_stalled += journal.replica == replica
                self._dispatch(request, journal)

    def _receive(self, replica: int, message: Message) -> None:
        """Record what an engine reports about a sample that runs on it."""
        match message:
            case Committed() | Finished() | Failed():
                number = message.request
            case _:
                _LOG.warning("engine %d sent an unexpected %s", replica, type(message).__name__)
                return
        known = self._table.sample(number) if number is not None else None
        if known is None or known[1].replica != replica:
            return
        request, journal = known
        match message:
            case Committed():
                self._let_next_suspect_run(journal)
                self._recorder.committed(request, journal, message)
            case Finished():
                self._finish(request, journal, message)
            case Failed():
                kind = _ERRORS_BY_KIND.get(message.kind, PacelineError)
                self._fail(request, journal, kind(message.message))

    def _finish(self, request: OpenRequest, journal: Journal, finished: Finished) -> None:
        self._let_next_suspect_run(journal)
        self._recorder.finished(request, journal, finished)

    def _fail(self, request: OpenRequest, journal: Journal, error: PacelineError) -> None:
        self._let_next_suspect_run(journal)
        self._recorder.failed(request, journal, error)

    def _let_next_suspect_run(self, journal: Journal) -> None:
        """Send the next suspect once this one has a token or has ended."""
        if journal.is_suspect and self._loop is not None:
            self._loop.call_soon(self.run_waiting)
