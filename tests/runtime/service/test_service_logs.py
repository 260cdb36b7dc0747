"""Log lines for people and for machines."""

import json
import logging

import pytest

from runtime.service.service_logs import LOG_FORMATS, start_logging

LOGGER = logging.getLogger("paceline.service")


@pytest.fixture(params=LOG_FORMATS)
def log_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_request_is_one_line_with_its_figures(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging(log_format)
    fields = {"request_id": "r1", "prompt_tokens": 3, "cause": "", "ttft_s": 0.25, "drafted": None}
    LOGGER.info("request %s", "ended", extra=fields)
    LOGGER.debug("not shown")
    (line,) = capsys.readouterr().err.splitlines()
    if log_format == "json":
        found = json.loads(line)
        assert found.pop("time").endswith("+00:00")
        assert found == {
            "level": "info",
            "logger": "paceline.service",
            "message": "request ended",
            "request_id": "r1",
            "prompt_tokens": 3,
            "ttft_s": 0.25,
        }
    else:
        assert line.endswith(
            "info paceline.service: request ended request_id=r1 prompt_tokens=3 ttft_s=0.25"
        )


def test_an_exception_comes_with_its_traceback(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging(log_format)
    try:
        raise ValueError("broken")
    except ValueError:
        LOGGER.exception("request failed")
    text = capsys.readouterr().err
    if log_format == "json":
        assert json.loads(text)["error"].endswith("ValueError: broken")
    else:
        assert text.splitlines()[0].endswith("error paceline.service: request failed")
        assert text.splitlines()[-1] == "ValueError: broken"


def test_starting_twice_logs_once(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("text")
    start_logging("text")
    LOGGER.warning("once")
    assert capsys.readouterr().err.count("once") == 1
