"""A benchmark's report as JSON: in the file that `--out` names, and printed with `--json`."""

import json
from collections.abc import Mapping
from pathlib import Path


def report_json(found: Mapping[str, object], out: Path | None, *, prints: bool) -> bool:
    """Write a report, and print it in one line; return whether it was printed.

    Args:
        found: the report.
        out: the file to write, if any.
        prints: whether the user asked for JSON in place of tables.
    """
    if out is not None:
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if prints:
        print(json.dumps(found))
    return prints
