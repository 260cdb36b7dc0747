import pytest

from runtime.constraints.line_process import LineProcess, NoAnswer


def test_a_process_that_writes_no_line_is_ended() -> None:
    process = LineProcess("tests.support.no_such_module")
    with pytest.raises(NoAnswer, match="its process has ended"):
        process.start(30.0)
    assert not process.is_running


def test_a_process_that_is_late_is_ended() -> None:
    process = LineProcess(
        "runtime.constraints.monitor_process", ["tests.support.toy_monitors:hangs"]
    )
    process.start(30.0)
    with pytest.raises(NoAnswer, match=r"did not answer within 0\.2 s"):
        process.ask("slow.", 0.2)
    assert not process.is_running


def test_a_process_answers_line_by_line_until_it_is_closed() -> None:
    process = LineProcess(
        "runtime.constraints.monitor_process", ["tests.support.toy_monitors:members"]
    )
    assert process.start(30.0) == {"trigger": "."}
    assert process.ask("a box.", 30.0) == {"words": ["open", "empty"]}
    assert process.ask("a hat.", 30.0) == {"words": None}
    assert process.is_running
    process.close()
    assert not process.is_running
