"""The log records of one logger: threads of other tests and libraries may log at the same time."""

import logging

import pytest


def records_of(caplog: pytest.LogCaptureFixture, logger: str) -> list[logging.LogRecord]:
    """Return what a logger has logged in this phase of the test."""
    return [record for record in caplog.records if record.name == logger]
