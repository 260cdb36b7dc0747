"""A report is written where it was asked for, and printed only then."""

import json
from pathlib import Path

import pytest

from cluster.reports.json_report import report_json

FOUND = {"config": {"threads": 2}, "rows": [1.5, None]}


@pytest.mark.parametrize("prints", [False, True])
@pytest.mark.parametrize("written", [False, True])
def test_a_report_goes_where_it_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prints: bool, written: bool
) -> None:
    out = tmp_path / "report.json"
    assert report_json(FOUND, out if written else None, prints=prints) is prints
    printed = capsys.readouterr().out
    assert (json.loads(printed) == FOUND and printed.count("\n") == 1) if prints else printed == ""
    assert out.exists() is written
    assert not written or json.loads(out.read_text()) == FOUND
