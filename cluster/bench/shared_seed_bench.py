"""`paceline bench shared-seed`: the cost of a round beyond its forwards, and its bytes at the
socket."""

import json
from dataclasses import asdict

from rich.console import Console
from rich.progress import track
from rich.table import Table

from cluster.options.bench_options import BenchSeedsOptions
from cluster.reports.run_report import output_console
from runtime.errors import ConfigError
from runtime.models.checkpoint import resolve_model
from runtime.training.job.job_config import SHARED_SEED, LoraConfig, TrainConfig
from runtime.training.shared_seed.compare import use_threads
from runtime.training.shared_seed.round_cost import StepBench, StepCost, WireCost, wire_cost
from runtime.training.shared_seed.shared_seed_job import header_of

_NOTES = Console(stderr=True, highlight=False)
_ROUNDS = 40


def run(options: BenchSeedsOptions) -> int:
    """Measure steps and bytes and print them; return the exit code.

    Raises:
        ConfigError: an option or the model cannot be used.
    """
    shapes, pairs = _pairs(options.shapes, "shapes"), _pairs(options.wires, "wires")
    use_threads(options.threads)
    directory = resolve_model(options.model)
    lora = LoraConfig(rank=options.rank)
    header = header_of(TrainConfig(model=options.model, method=SHARED_SEED, lora=lora), directory)
    wires = [
        wire_cost(machines, directions, header.size, rounds=_ROUNDS)
        for machines, directions in track(pairs, "counting bytes", console=_NOTES, transient=True)
    ]
    bench = StepBench(directory, header, length=options.length, machines=options.machines)
    steps = [
        bench.measure(directions, batch, repeats=options.repeats)
        for directions, batch in track(shapes, "timing steps", console=_NOTES, transient=True)
    ]
    if options.json:
        rows = [asdict(step) | {"ratio": step.ratio} for step in steps]
        print(json.dumps({"steps": rows, "wires": [asdict(wire) for wire in wires]}))
    else:
        console = output_console()
        console.print(_steps(steps, options.machines))
        console.print(_wires(wires, header.size))
    return 0


def _steps(steps: list[StepCost], machines: int) -> Table:
    table = Table(title=f"a worker's step, commits of {machines} machines")
    for name in ("directions", "batch", "forwards", "estimate", "apply", "step to forwards"):
        table.add_column(name, justify="right")
    for one in steps:
        seconds = (f"{1000 * s:.1f} ms" for s in (one.forward_s, one.estimate_s, one.apply_s))
        table.add_row(str(one.directions), str(one.batch), *seconds, f"{one.ratio:.3f}")
    return table


def _wires(wires: list[WireCost], size: int) -> Table:
    table = Table(title=f"bytes at one machine's socket, a round; adapters of {size:,} numbers")
    for name in ("machines", "directions", "up", "of these scalars", "down", "ring all-reduce"):
        table.add_column(name, justify="right")
    for one in wires:
        table.add_row(
            str(one.machines),
            str(one.directions),
            f"{one.up:.1f}",
            str(one.directions),
            f"{one.down:.1f}",
            f"{one.allreduce:,}",
        )
    return table


def _pairs(texts: tuple[str, ...], name: str) -> list[tuple[int, int]]:
    found = []
    for text in texts:
        first, _, second = text.partition("x")
        if not (first.isdecimal() and second.isdecimal() and int(first) and int(second)):
            raise ConfigError(f"`{name}` has {text!r}: write pairs as 4x2, with commas")
        found.append((int(first), int(second)))
    return found
