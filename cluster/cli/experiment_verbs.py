"""The experiment verbs of the command line."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli import table
from cluster.cli.flags import Json, Ray
from cluster.cli.path_options import input_directory, input_file, output_directory
from cluster.cli.verbs import RunByDefault, Verbs, run_verb
from cluster.options.experiment_options import ExperimentOptions, ExperimentReportOptions

app = Verbs(
    no_args_is_help=True,
    cls=RunByDefault,
    help="Scaling sweeps, foretold by simulation, measured, reported: experiment EXP.toml.",
)

File = Annotated[
    Path,
    typer.Argument(callback=input_file, help="The experiment: a TOML file (docs/experiments.md)."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        callback=output_directory, help="The results directory; default: the file's `out`."
    ),
]


@app.command("run")
def experiment_run(
    file: File,
    *,
    out: Out = None,
    retry: Annotated[bool, typer.Option("--retry", help="Measure failed points again.")] = False,
    ray: Ray = None,
    json: Json = False,
) -> None:
    """Measure what is missing of a sweep and write the report; the same as experiment EXP.toml.

    Run the same command again to go on where it was cut. Example: paceline experiment run EXP.toml
    """
    options = ExperimentOptions(file=file, out=out, retry=retry, ray_address=ray, json=json)
    run_verb(table.experiment_run, options)


@app.command("plan")
def experiment_plan(file: File, *, out: Out = None, json: Json = False) -> None:
    """Simulate every point of a sweep, on clusters that need not be there, and write the report.

    Example: paceline experiment plan EXP.toml
    """
    run_verb(table.experiment_plan, ExperimentOptions(file=file, out=out, json=json))


@app.command("report")
def experiment_report(
    directory: Annotated[
        Path, typer.Argument(callback=input_directory, help="What an experiment wrote: its `out`.")
    ],
    *,
    json: Json = False,
) -> None:
    """Write the report anew from a results directory: report.html, pictures, and a table.

    Example: paceline experiment report runs/scaling
    """
    options = ExperimentReportOptions(directory=directory, json=json)
    run_verb(table.experiment_report, options)
