"""Every option of every verb that takes a number, with numbers that it cannot take."""

from functools import partial
from pathlib import Path

import pytest

from cluster.cli.command_endings import run_to_end
from tests.cluster.cli.test_bad_files import COMMAND, SETTINGS, Case, command_line, good, spied

__all__ = ["good", "spied"]  # fixtures

NUMBERS = [case for cases in SETTINGS.values() for case in cases if case.kind in (int, float)]
ANY_SIGN = {"seed", "priority", "frequency_penalty", "presence_penalty"}
"""Options that take negative numbers, too."""


def case_id(case: Case) -> str:
    """Return a test's name."""
    return "-".join((*case.verb, case.field))


@pytest.mark.parametrize("case", NUMBERS, ids=case_id)
def test_a_number_out_of_range_is_rejected(
    case: Case, good: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    is_float = case.kind is float
    values = ["x", "nan", "inf", "-inf", "1e999"] if is_float else ["x", "1.5", "9" * 5000]
    if case.field not in ANY_SIGN:
        values.append("-1")
    wrong = []
    for value in values:
        arguments = command_line(case, value, good | {"out": str(tmp_path / "new")})
        code = run_to_end(partial(COMMAND, arguments, standalone_mode=False))
        printed = capsys.readouterr().err.strip()
        last = printed.splitlines()[-1] if printed else ""
        name = case.name if case.name.startswith("-") else ""
        if code != 2 or not last.startswith("error: ") or name not in last or "Trace" in printed:
            wrong.append(f"{value[:20]}: {code} {printed[-200:]}")
    assert not wrong, wrong
