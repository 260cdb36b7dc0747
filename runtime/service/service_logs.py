"""The service's log: text for people, or one JSON object a line for machines.

Records of requests have ids, sizes and durations, but no prompts or answers.
"""

import json
import logging
import sys
from datetime import UTC, datetime

LOG_FORMATS = ("text", "json")
_FIELDS = (
    "request_id",
    "client",
    "prompt_tokens",
    "completion_tokens",
    "reason",
    "cause",
    "ttft_s",
    "total_s",
    "drafted",
    "accepted",
)


def start_logging(log_format: str) -> None:
    """Send the project's log to standard error, in one of LOG_FORMATS."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logger = logging.getLogger("paceline")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _fields(record: logging.LogRecord) -> dict[str, object]:
    found = ((name, getattr(record, name, None)) for name in _FIELDS)
    return {name: value for name, value in found if value not in (None, "")}


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a JSON object."""
        shown = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        } | _fields(record)
        if record.exc_info:
            shown["error"] = self.formatException(record.exc_info)
        return json.dumps(shown)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line of text."""
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        text = f"{clock} {record.levelname.lower()} {record.name}: {record.getMessage()}{fields}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text
