"""`paceline experiment` on the command line."""

from cluster.cli import table
from cluster.cli.declaration import VerbDeclaration
from cluster.cli.generated import add_verb
from cluster.cli.verbs import RunByDefault, Verbs
from cluster.options.experiment_options import (
    ExperimentOptions,
    ExperimentPlanOptions,
    ExperimentReportOptions,
)

app = Verbs(
    no_args_is_help=True,
    cls=RunByDefault,
    help="Scaling sweeps, predicted by simulation, measured, reported: experiment EXP.toml.",
)

add_verb(
    app,
    VerbDeclaration(
        name="experiment run",
        options=ExperimentOptions,
        run=table.experiment_run,
        example="EXP.toml",
        arguments=("file",),
        flags={"": ("out", "retry", "ray_address", "json")},
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="experiment plan",
        options=ExperimentPlanOptions,
        run=table.experiment_plan,
        example="EXP.toml",
        arguments=("file",),
        flags={"": ("out", "json")},
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="experiment report",
        options=ExperimentReportOptions,
        run=table.experiment_report,
        example="runs/scaling",
        arguments=("directory",),
        flags={"": ("json",)},
    ),
)
