"""Check and measure a GPU: `make gpu-check`.

Tests run first, then measurements. Each part runs in a process of its own within a limit of time,
so that one that fails, hangs or damages its context leaves the others alone; its row then says so.
Writes OUT.json and OUT.md; needs no download.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
BUDGET_S = 480.0
_COMMAND = (sys.executable, "-m", "tests.support.gpu_parts")
_GRACE_S = 5.0
"""For a part that is past its limit to end by itself."""
_ROW = '{"part": '

Figures = Mapping[str, float | str]


class NotHere(Exception):
    """A part does not apply to this machine."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One check or measurement."""

    name: str
    run: Callable[[], Figures]
    """Returns figures, and raises if what it checks does not hold; or `NotHere`."""
    limit_s: float = 30.0
    """The longest it may take."""
    needs_s: float = 15.0
    """Time that must be left for it to start."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of a part."""

    part: str
    status: str
    """ok, failed, or not run."""
    figures: Figures = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0


def run_parts(
    parts: Sequence[Part],
    budget_s: float,
    start: Callable[[Part, float], Row],
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Row]:
    """Yield a row for each part, whatever the others do.

    Args:
        parts: what to run, in order.
        budget_s: seconds for all of them.
        start: runs a part for at most so many seconds.
        now: returns the time.
    """
    stop = now() + budget_s
    for part in parts:
        left_s = stop - now()
        if left_s < part.needs_s:
            reason = f"{left_s:.0f} s are left, it needs {part.needs_s:.0f} s"
            yield Row(part=part.name, status="not run", reason=reason)
        else:
            yield start(part, min(part.limit_s, left_s))


def outcome(part: Part) -> Row:
    """Run a part here, and return what came of it."""
    begin = time.monotonic()
    status, figures, reason = "ok", dict[str, float | str](), ""
    try:
        figures = dict(part.run())
    except NotHere as missing:
        status, reason = "not run", str(missing)
    except Exception as error:
        status, reason = "failed", f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - begin
    return Row(part=part.name, status=status, figures=figures, reason=reason, seconds=seconds)


def in_own_process(part: Part, limit_s: float, command: Sequence[str] = _COMMAND) -> Row:
    """Run a part in a process of its own, and return the row that it prints."""
    begin = time.monotonic()
    process = subprocess.Popen(
        [*command, "--part", part.name],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=max(1.0, limit_s - _GRACE_S))
        lines = output.strip().splitlines() or ["no output"]
        reason = f"its process ended with {process.returncode}: {lines[-1]}"
        found = [line for line in lines if line.startswith(_ROW)]
        if found:
            return Row(**json.loads(found[-1]))
    except subprocess.TimeoutExpired:
        reason = f"stopped after {limit_s:.0f} s"
    finally:
        _end(process)
    seconds = time.monotonic() - begin
    return Row(part=part.name, status="failed", reason=reason, seconds=seconds)


def _end(process: "subprocess.Popen[str]") -> None:
    """End a process, and those that it started."""
    for sent in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, sent)
            try:
                process.communicate(timeout=_GRACE_S)
            except subprocess.TimeoutExpired:
                continue


def table(device: str, rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [f"Device: {device}", "", "| part | status | figures |", "| --- | --- | --- |"]
    for row in rows:
        figures = ", ".join(f"{name} {_shown(value)}" for name, value in row.figures.items())
        said = (figures or row.reason).replace("|", "/").replace("\n", " ")
        lines.append(f"| {row.part} | {row.status} | {said} |")
    return "\n".join(lines) + "\n"


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def write(out: Path, device: str, rows: Sequence[Row]) -> None:
    """Write the rows so far as OUT.json and OUT.md."""
    found = {"device": device, "parts": [asdict(done) for done in rows]}
    out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    out.with_suffix(".md").write_text(table(device, rows))


def check(parts: Sequence[Part], device: str, out: Path) -> int:
    """Run all parts, write both files after each, and return 0 if none failed."""
    rows: list[Row] = []
    for row in run_parts(parts, BUDGET_S, in_own_process):
        print(f"{row.part}: {row.status} {row.reason}", flush=True)
        rows.append(row)
        write(out, device, rows)
    return int(any(row.status == "failed" for row in rows))


def main(parts: Sequence[Part], arguments: Sequence[str] | None = None) -> int:
    """Run all parts, or the named one in this process; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--part", choices=[part.name for part in parts], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("gpu-check: torch finds no CUDA device, so nothing was checked", file=sys.stderr)
        return 2
    if options.part is not None:
        (part,) = (part for part in parts if part.name == options.part)
        print(json.dumps(asdict(outcome(part))))
        return 0
    device = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return check(parts, device, options.out)
