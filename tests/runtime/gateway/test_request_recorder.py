"""Each event of a request reaches its journal, the disk, the metrics, the log and the traffic."""

import logging
from pathlib import Path

import pytest

from parallel.decoding.types import DecodeMode, SamplingParams, VerifierKind
from parallel.messages import Committed, Finished, Submit
from runtime.distillation.traffic import TrafficLog
from runtime.errors import DeadlineExceeded, PacelineError
from runtime.gateway.journal import Journal, OpenRequest
from runtime.gateway.journal_store import JournalStore
from runtime.gateway.metrics import ServiceMetrics
from runtime.gateway.request_recorder import RequestRecorder
from runtime.gateway.request_table import RequestTable
from tests.support.log_records import records_of

pytestmark = pytest.mark.usefixtures("_info_logs")


@pytest.fixture
def _info_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "paceline.gateway")


class Harness:
    """A recorder with everything it records to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = RequestTable()
        self.metrics = ServiceMetrics()
        store = JournalStore.open(folder / "journal", "toy")
        self.recorder = RequestRecorder(
            self.table, self.metrics, store, TrafficLog(folder / "traffic")
        )

    def open(self) -> tuple[OpenRequest, Journal]:
        submit = Submit(
            request=0,
            prompt_ids=(1, 2, 3),
            sampling=SamplingParams(),
            mode=DecodeMode.AUTOREGRESSIVE,
            verifier=VerifierKind.MATCH,
            max_tokens=8,
            timeout_s=2.5,
        )
        request = self.table.add([submit], client="me", name="mine")
        self.recorder.opened(request)
        return request, request.samples[0]

    def reopened(self) -> list[OpenRequest]:
        """Return what another process would find on the disk."""
        self.recorder.close_store()
        store = JournalStore.open(self.folder / "journal", "toy")
        store.close()
        return store.restored

    @property
    def num_answers(self) -> int:
        files = (self.folder / "traffic").rglob("*.jsonl")
        return sum(len(path.read_text().splitlines()) for path in files)


def finished(journal: Journal, reason: str) -> Finished:
    return Finished(request=journal.submit.request, reason=reason)


def test_a_finished_request_is_counted_logged_and_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harness = Harness(tmp_path)
    request, journal = harness.open()
    message = Committed(request=journal.submit.request, token_ids=(7, 8))
    harness.recorder.committed(request, journal, message)
    harness.recorder.finished(request, journal, finished(journal, "stop"))
    assert journal.token_ids == [7, 8]
    assert (harness.metrics.num_finished, harness.num_answers) == (1, 1)
    (record,) = records_of(caplog, "paceline.gateway")
    assert (record.message, record.__dict__["completion_tokens"]) == ("request ended", 2)
    (restored,) = harness.reopened()
    assert restored.samples[0].token_ids == [7, 8]
    assert not restored.is_open


def test_a_request_cut_off_by_a_shutdown_stays_open_on_the_disk(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    request, journal = harness.open()
    harness.recorder.close_store()
    harness.recorder.failed(request, journal, PacelineError("shut down"))
    (restored,) = harness.reopened()
    assert restored.is_open


def test_a_cancelled_answer_is_no_traffic(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    request, journal = harness.open()
    harness.recorder.finished(request, journal, finished(journal, "cancelled"))
    assert harness.num_answers == 0
    assert journal.error is None


def test_a_sample_cancelled_for_its_deadline_has_failed(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    request, journal = harness.open()
    journal.is_late = True
    harness.recorder.finished(request, journal, finished(journal, "cancelled"))
    assert isinstance(journal.error, DeadlineExceeded)
    assert str(journal.error) == "its deadline of 2.5 s passed"


def test_a_sample_fails_only_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness(tmp_path)
    request, journal = harness.open()
    for text in ("first", "second"):
        harness.recorder.failed(request, journal, PacelineError(text))
    assert str(journal.error) == "first"
    assert len(records_of(caplog, "paceline.gateway")) == 1


def test_a_dropped_request_leaves_the_table_and_the_disk_when_it_ends(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    request, journal = harness.open()
    request.is_dropped = True
    harness.recorder.finished(request, journal, finished(journal, "length"))
    assert harness.table.requests == []
    assert harness.reopened() == []
