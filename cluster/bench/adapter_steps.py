"""`paceline bench adapters`: what adapters cost a decode step."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

from rich.console import Console
from rich.table import Table

from cluster.deploy.target_plan import plan_target, target_settings
from cluster.options.bench_options import BenchAdaptersOptions
from cluster.reports.environment import environment
from cluster.reports.run_report import output_console
from runtime.clock import MonotonicClock
from runtime.errors import ConfigError
from runtime.hosts.adapter_bench import AdaptedStepTimes, AdapterBench, parts_of
from runtime.node.cores import usable_cores

_NOTES = Console(stderr=True)


def run_adapters(options: BenchAdaptersOptions) -> int:
    """Measure steps with and without adapters, and print their ratios; return the exit code.

    Raises:
        ConfigError: the target cannot be used, or is too short for the context.
    """
    target = plan_target(options.models)
    if target.facts is None:
        raise ConfigError("`virtual` devices have no weights: name a model as `target`")
    length = options.context_tokens + options.rows
    if length > target.max_positions:
        raise ConfigError(
            f"`context_tokens` {options.context_tokens} and {options.rows} rows are {length} "
            f"tokens: {target.name} reads at most {target.max_positions}"
        )
    threads = options.models.threads or usable_cores()
    settings = target_settings(options.models, target)
    found: dict[int, list[AdaptedStepTimes]] = {}
    with _NOTES.status("measuring"):
        for number in options.sequences:
            bench = AdapterBench(
                replace(
                    settings,
                    num_threads=threads,
                    cache_tokens=number * (length + settings.page_size),
                ),
                target.facts.config,
                num_sequences=number,
                context=options.context_tokens,
                num_tokens=options.rows,
                rank=options.lora_rank,
                parts=parts_of(options.targets),
                clock=MonotonicClock(),
            )
            found[number] = bench.measure(repeats=options.repeats)
    report = {
        "config": {
            "target": options.models.target,
            "weights": options.models.weights,
            "threads": threads,
            "context": options.context_tokens,
            "rows": options.rows,
            "rank": options.lora_rank,
            "targets": list(options.targets),
            "repeats": options.repeats,
        },
        "environment": environment(),
        "rows": [
            {"sequences": number} | asdict(times) for number, all in found.items() for times in all
        ],
    }
    if options.json:
        print(json.dumps(report))
        return 0
    for number, times in found.items():
        output_console().print(_table(times, number, options))
    return 0


def _table(found: Sequence[AdaptedStepTimes], number: int, options: BenchAdaptersOptions) -> Table:
    sequences = "1 sequence" if number == 1 else f"{number} sequences"
    table = Table(
        title=f"one step of {sequences} with {options.rows} rows each, "
        f"adapters of rank {options.lora_rank} on {', '.join(options.targets)}"
    )
    for column in ("rows", "step ms", "of base's", "thread ms", "of base's thread"):
        table.add_column(column, justify="left" if column == "rows" else "right")
    for times in found:
        table.add_row(
            times.rows.value,
            *(f"{1000 * times.step_s:.2f}", f"{times.ratio:.3f}"),
            *(f"{1000 * times.thread_s:.2f}", f"{times.thread_ratio:.3f}"),
        )
    return table
