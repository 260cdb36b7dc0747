"""The verbs about a Ray cluster: look at it, submit jobs to it."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.flags import Device, Drafter, Drafters, Json, Place, Target, Tp, Virtual
from cluster.cli.path_options import input_directory, input_file
from cluster.cli.verbs import Verbs, run_verb
from cluster.options.cluster_options import CheckOptions, SubmitOptions
from cluster.options.verb_options import ModelOptions

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
    run_verb("cluster.jobs.submit", options)


@app.callback()
def _group() -> None:
    """Keep the verb's name: a group with one verb would lose it."""


@app.command("check")
def check(
    *,
    target: Target = None,
    drafter: Drafter = None,
    tp: Tp = 1,
    drafters: Drafters = None,
    virtual: Virtual = None,
    device: Device = "cpu",
    place: Place = None,
    ray: Annotated[
        str,
        typer.Option(
            envvar="RAY_ADDRESS", help="Ray address to join: auto (one on this machine), HOST:PORT."
        ),
    ] = "auto",
    json: Json = False,
) -> None:
    """Check nodes, versions, ways between nodes, and whether a target fits; 1 if not all is well.

    Example: paceline cluster check --target smollm2-135m --tp 2 --drafters 2
    """
    models = ModelOptions(
        target=target,
        drafter=drafter,
        tp=tp,
        drafters=drafters,
        virtual=virtual,
        device=device,
        place=place,
        ray_address=ray,
    )
    run_verb("cluster.deploy.cluster_check", CheckOptions(models=models, json=json))
