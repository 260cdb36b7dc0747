"""The verbs around shared-seed training that measure and simulate."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.flags import Json
from cluster.options import BenchLearnOptions
from cluster.verbs import run_verb


def bench_learn(
    config: Annotated[Path, typer.Argument(help="A job with method shared-seed, and data.eval.")],
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
    out: Annotated[Path, typer.Option(help="Where curves and states are kept.")] = Path("learn"),
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
    run_verb("cluster.bench_learn", options)
