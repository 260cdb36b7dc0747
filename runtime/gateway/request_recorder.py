"""Record what happens to requests: in their journals, on disk, in metrics, logs and traffic."""

import logging

from parallel.messages import Committed, Finished
from runtime.distillation.traffic import TrafficLog
from runtime.errors import DeadlineExceeded, PacelineError
from runtime.gateway.journal import Journal, OpenRequest
from runtime.gateway.journal_store import JournalStore
from runtime.gateway.metrics import ServiceMetrics
from runtime.gateway.request_endings import Endings
from runtime.gateway.request_table import RequestTable

_LOG = logging.getLogger("paceline.gateway")


class RequestRecorder:
    """Applies each event of a request to everything that keeps it."""

    def __init__(
        self,
        table: RequestTable,
        metrics: ServiceMetrics,
        store: JournalStore | None,
        traffic: TrafficLog | None,
    ) -> None:
        """Prepare to record.

        Args:
            table: the known requests.
            metrics: counts and times.
            store: keeps journals on disk; None keeps none.
            traffic: keeps answers for training a drafter; None keeps none.
        """
        self.endings = Endings(metrics)
        self._table = table
        self._metrics = metrics
        self._store = store
        self._traffic = traffic

    def close_store(self) -> None:
        """Close the store first, so that requests cut off later stay open on disk."""
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def opened(self, request: OpenRequest) -> None:
        """Record a new request."""
        if self._store is not None:
            self._store.opened(request)

    def committed(self, request: OpenRequest, journal: Journal, message: Committed) -> None:
        """Record tokens of a sample."""
        if self._store is not None:
            self._store.committed(message)
        journal.append(message, self._metrics)
        request.notify_readers()

    def finished(self, request: OpenRequest, journal: Journal, finished: Finished) -> None:
        """Record the end of a sample; one that was cancelled for its deadline has failed."""
        if journal.is_late and finished.reason == "cancelled":
            error = f"its deadline of {journal.submit.timeout_s:.3g} s passed"
            self.failed(request, journal, DeadlineExceeded(error))
            return
        journal.end(finished)
        self._ended(request, journal)
        self._metrics.count_sample(finished, len(journal.token_ids))
        if adapter := journal.submit.adapter_name:
            self._metrics.count_adapter(adapter, finished, len(journal.token_ids))
        self._keep_answer(journal, finished)

    def failed(self, request: OpenRequest, journal: Journal, error: PacelineError) -> None:
        """Record the failure of a sample; nothing happens if it has ended."""
        if journal.is_open:
            journal.fail(error)
            self._ended(request, journal)

    def dropped(self, request: OpenRequest) -> None:
        """Remove a request from the table and the disk."""
        self._table.drop(request)
        if self._store is not None:
            self._store.dropped(request)

    def _ended(self, request: OpenRequest, journal: Journal) -> None:
        self._table.ended(journal)
        if self._store is not None:
            self._store.ended(journal)
        if not request.is_open:
            self.endings.ended(request)
            if request.is_dropped:
                self.dropped(request)
        request.notify_readers()

    def _keep_answer(self, journal: Journal, finished: Finished) -> None:
        """Append a complete answer to the traffic, if it is kept."""
        if self._traffic is None or finished.reason == "cancelled":
            return
        try:
            self._traffic.append(journal.submit, journal.token_ids)
        except OSError as error:  # a full disk must not end the service
            _LOG.warning("traffic is not kept from now on: %s", error)
            self._traffic = None
