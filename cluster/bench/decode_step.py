"""`paceline bench step`: where the time of one decode step goes."""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from cluster.bench.adapter_steps import run_adapters
from cluster.deploy.target_plan import plan_target, target_settings
from cluster.options.bench_options import BenchAdaptersOptions, BenchStepOptions, StepOptions
from cluster.reports.environment import environment
from cluster.reports.json_report import report_json
from cluster.reports.run_report import output_console
from runtime.clock import MonotonicClock
from runtime.errors import ConfigError
from runtime.hosts.step_bench import DecodeStepBench, StepTimes
from runtime.node.cores import usable_cores
from runtime.rank.span_clock import StepPart

_NOTES = Console(stderr=True)


def run(options: StepOptions) -> int:
    """Measure steps and print their parts, or what adapters cost them; return the exit code.

    Raises:
        ConfigError: the target cannot be used, or is too short for the context.
    """
    if isinstance(options, BenchAdaptersOptions):
        return run_adapters(options)
    return _run_parts(options)


def _run_parts(options: BenchStepOptions) -> int:
    target = plan_target(options.models)
    longest = options.context_tokens + max(options.rows)
    if longest > target.max_positions:
        raise ConfigError(
            f"`context_tokens` {options.context_tokens} and {max(options.rows)} rows are "
            f"{longest} tokens: {target.name} reads at most {target.max_positions}"
        )
    threads = options.models.threads or usable_cores()
    settings = replace(
        target_settings(options.models, target),
        num_threads=threads,
        cache_tokens=longest + target_settings(options.models, target).page_size,
    )
    with _NOTES.status("measuring"):
        bench = DecodeStepBench(
            settings,
            context=options.context_tokens,
            most_rows=max(options.rows),
            clock=MonotonicClock(),
        )
        steps = bench.measure(options.rows, repeats=options.repeats)
    found = {
        "config": {
            "target": options.models.target,
            "weights": options.models.weights,
            "threads": threads,
            "context": options.context_tokens,
            "repeats": options.repeats,
        },
        "environment": environment(),
        "rows": [_row(step) for step in steps],
    }
    if report_json(found, options.out, prints=options.json):
        return 0
    title = f"one step after {options.context_tokens} tokens, {threads} threads, ms and share"
    output_console().print(_table(steps, title))
    return 0


def _row(step: StepTimes) -> dict[str, object]:
    return {
        "rows": step.num_rows,
        "total_ms": round(1000 * step.total_s, 4),
        "min_ms": round(1000 * step.spread_s[0], 4),
        "max_ms": round(1000 * step.spread_s[1], 4),
        "parts_ms": {part.value: round(1000 * s, 4) for part, s in step.parts_s.items()},
    }


def _table(steps: Sequence[StepTimes], title: str) -> Table:
    table = Table(title=title)
    table.add_column("part")
    for step in steps:
        table.add_column(
            "1 row" if step.num_rows == 1 else f"{step.num_rows} rows", justify="right"
        )
    for part in StepPart:
        cells = (
            f"{1000 * step.parts_s[part]:.2f} {step.parts_s[part] / step.total_s:4.0%}"
            for step in steps
        )
        table.add_row(part.value, *cells)
    table.add_section()
    table.add_row("everything", *(f"{1000 * step.total_s:.2f}     " for step in steps))
    spreads = (f"{1000 * s:.2f}-{1000 * t:.2f}" for s, t in (step.spread_s for step in steps))
    table.add_row("fastest-slowest", *spreads)
    return table
