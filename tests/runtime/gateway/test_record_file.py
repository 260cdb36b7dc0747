"""Journal and traffic are kept where they can be; on a full disk requests are served as ever."""

import os
from pathlib import Path

import pytest

from runtime.client import Client
from runtime.distillation.traffic import TrafficLog
from runtime.gateway.journal_store import JournalStore
from runtime.gateway.record_file import RecordFile
from tests.support.rig import Rig, expected_tokens, make_submit
from tests.support.serving import Serving

FULL = Path("/dev/full")


def answers(serving: Serving) -> list[list[int]]:
    """Return the tokens of three requests with a name."""
    found = []
    with Client(serving.address) as client:
        for number in range(3):
            chunks = client.generate((1, 2, number), max_tokens=20, request_id=f"name {number}")
            found.append([token for chunk in chunks for token in chunk.token_ids])
    return found


EXPECTED = [expected_tokens(make_submit(prompt=(1, 2, n), max_tokens=20)) for n in range(3)]


def test_a_full_disk_costs_the_journal_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig()
    store = JournalStore.open(tmp_path / "journal", "toy")
    store._file = RecordFile(FULL, os.open(FULL, os.O_WRONLY))
    serving = Serving(rig, store=store)
    try:
        assert answers(serving) == EXPECTED
    finally:
        serving.close()
        rig.close()
    assert [r.message for r in caplog.records if r.name == "paceline.journal"] == [
        f"the journal in {tmp_path / 'journal'} is not written from now on: "
        "[Errno 28] No space left on device"
    ]


def test_a_full_disk_costs_the_traffic_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig()
    (tmp_path / "traffic.jsonl").symlink_to(FULL)
    serving = Serving(rig, traffic=TrafficLog(tmp_path))
    try:
        assert answers(serving) == EXPECTED
    finally:
        serving.close()
        rig.close()
    assert (
        sum("traffic is not kept from now on" in record.message for record in caplog.records) == 1
    )
