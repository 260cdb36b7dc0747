"""The verbs about a Ray cluster: look at it, submit jobs to it."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli import table
from cluster.cli.declaration import VerbDeclaration
from cluster.cli.generated import add_verb
from cluster.cli.path_options import input_directory, input_file
from cluster.cli.verbs import Verbs, run_verb
from cluster.options.cluster_options import CheckOptions, SubmitOptions

app = Verbs(no_args_is_help=True, help="Look at a Ray cluster.")
SUBMIT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def submit(
    context: typer.Context,
    verb: Annotated[str, typer.Argument(help="serve, generate, train, experiment, draft, bench.")],
    *,
    address: Annotated[
        str,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Ray's dashboard, http://HEAD:8265."),
    ],
    runtime_env: Annotated[
        Path | None,
        typer.Option(
            callback=input_file,
            help="A YAML or JSON file: env_vars, pip, excludes, ... of Ray's runtime_env.",
        ),
    ] = None,
    working_dir: Annotated[
        Path | None,
        typer.Option(
            callback=input_directory,
            help="The directory to upload, which the job runs in; default: this one. What "
            ".gitignore names, .git and .venv stay behind.",
        ),
    ] = None,
    submission_id: Annotated[str | None, typer.Option(help="The job's name; default: any.")] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the job's name and do not follow it.")
    ] = False,
) -> None:
    """Run another verb on a Ray cluster, with its output and exit code here.

    All other options are the verb's. Interrupting ends the job.

    Example: paceline submit generate --target smollm2-135m --prompt "Once" --address
    http://127.0.0.1:8265
    """
    options = SubmitOptions(
        arguments=(verb, *context.args),
        address=address,
        runtime_env=runtime_env,
        working_dir=working_dir,
        submission_id=submission_id,
        detach=detach,
    )
    run_verb(table.submit, options)


@app.callback()
def _group() -> None:
    """Keep the verb's name: a group with one verb would lose it."""


add_verb(
    app,
    VerbDeclaration(
        name="cluster check",
        options=CheckOptions,
        run=table.cluster_check,
        example="--target smollm2-135m --tp 2 --drafter-tp 2",
        flags={
            "": ("models.ray_address", "json"),
            "Models to place": (
                "models.target",
                "models.drafter",
                "models.tp",
                "models.drafter_tp",
                "models.device",
            ),
        },
    ),
)
