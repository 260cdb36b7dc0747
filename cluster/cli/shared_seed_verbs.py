"""The verbs around shared-seed training that measure and simulate."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli import table
from cluster.cli.flags import Json
from cluster.cli.path_options import input_file, output_directory
from cluster.cli.verbs import run_verb
from cluster.options.bench_options import BenchLearnOptions, BenchSeedsOptions
from cluster.options.simulate_options import SimulateSeedsOptions
from runtime.errors import ConfigError


def bench_learn(
    config: Annotated[
        Path,
        typer.Argument(callback=input_file, help="A job with method shared-seed, and data.eval."),
    ],
    *,
    methods: Annotated[
        str, typer.Option(help="With commas: byte, exact (scalars), first-order (AdamW, LoRA).")
    ] = "byte,exact,first-order",
    budget: Annotated[int, typer.Option(help="Sequences that each method learns from.")] = 20000,
    every: Annotated[int, typer.Option(help="Sequences between two measurements.")] = 2000,
    tests: Annotated[
        int, typer.Option(help="Records to measure on; the first and last measurement take all.")
    ] = 200,
    first_lr: Annotated[float, typer.Option(help="The rate of first-order.")] = 1e-3,
    out: Annotated[
        Path, typer.Option(callback=output_directory, help="Where curves and states are kept.")
    ] = Path("learn"),
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value over the file's; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Compare what a job learns by one byte, by exact scalars and by gradients; resumable.

    Example: paceline bench learn sst2.toml --budget 20000 --out curves
    """
    options = BenchLearnOptions(
        config=config,
        methods=tuple(methods.split(",")),
        budget=budget,
        every=every,
        tests=tests,
        first_lr=first_lr,
        out=out,
        settings=tuple(settings or ()),
        json=json,
    )
    run_verb(table.bench_learn, options)


def simulate_seeds(
    *,
    machines: Annotated[int, typer.Option(help="Machines at a time.")] = 256,
    rounds: Annotated[int, typer.Option(help="Rounds of the run.")] = 300,
    directions: Annotated[int, typer.Option(help="Of a machine and round; a byte each.")] = 1,
    compute: Annotated[
        float, typer.Option(help="Seconds of a round's forward passes on the median machine.")
    ] = 2.0,
    spread: Annotated[
        float, typer.Option(help="Of that, in the logarithm: among machines, and among rounds.")
    ] = 0.3,
    rtt: Annotated[float, typer.Option(help="Median round trip, in milliseconds.")] = 150.0,
    mbit: Annotated[float, typer.Option(help="Each machine's link, Mbit/s.")] = 10.0,
    loss: Annotated[float, typer.Option(help="Share of messages that are lost.")] = 0.01,
    leaves: Annotated[
        float, typer.Option(help="How often an hour a machine leaves; another comes.")
    ] = 0.5,
    patience: Annotated[
        float, typer.Option(help="A round ends 1 + this times after half of the machines came.")
    ] = 0.5,
    deadline: Annotated[float, typer.Option(help="Or after so many seconds.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Of chance.")] = 0,
    json: Json = False,
) -> None:
    """Run the shared-seed protocol for many machines far apart, in virtual time.

    Example: paceline simulate shared-seed --machines 256 --rtt 150 --loss 0.02
    """
    options = SimulateSeedsOptions(
        machines=machines,
        rounds=rounds,
        directions=directions,
        compute_s=compute,
        spread=spread,
        rtt_s=rtt / 1000,
        mbit_s=mbit,
        loss=loss,
        leaves_per_hour=leaves,
        patience=patience,
        deadline_s=deadline,
        seed=seed,
        json=json,
    )
    run_verb(table.simulate_seeds, options)


def bench_seeds(
    *,
    model: Annotated[str, typer.Option(help="The model.")] = "smollm2-135m",
    rank: Annotated[int, typer.Option(help="Of the adapters, on q_proj and v_proj.")] = 8,
    shapes: Annotated[
        str, typer.Option(help="Directions x samples of each, with commas.")
    ] = "1x8,4x2,4x4,8x1",
    wires: Annotated[
        str, typer.Option(help="Machines x directions of each to count bytes with, with commas.")
    ] = "1x1,1x16,8x1,8x16,32x4",
    machines: Annotated[int, typer.Option(help="Whose scalars a timed commit has.")] = 4,
    length: Annotated[int, typer.Option(help="Tokens of a sample.")] = 24,
    repeats: Annotated[int, typer.Option(help="Of each measurement, in turns.")] = 7,
    threads: Annotated[int, typer.Option(help="Threads of the forward passes.")] = 1,
    json: Json = False,
) -> None:
    """Measure a shared-seed step against its forward passes, and bytes at the socket.

    Example: paceline bench shared-seed --shapes 1x16,4x4
    """
    options = BenchSeedsOptions(
        model=model,
        rank=rank,
        shapes=_pairs(shapes, "--shapes"),
        wires=_pairs(wires, "--wires"),
        machines=machines,
        length=length,
        repeats=repeats,
        threads=threads,
        json=json,
    )
    run_verb(table.bench_seeds, options)


def _pairs(text: str, option: str) -> tuple[tuple[int, int], ...]:
    found = []
    for part in text.split(","):
        first, _, second = part.partition("x")
        if not (first.isdecimal() and second.isdecimal() and int(first) and int(second)):
            raise ConfigError(f"{option} has {part!r}: write as 4x2, with commas")
        found.append((int(first), int(second)))
    return tuple(found)
