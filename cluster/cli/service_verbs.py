"""The service verbs of the command line."""

from typing import Annotated

import typer

from cluster.cli import table
from cluster.cli.flags import Json
from cluster.cli.verbs import Verbs, run_verb
from cluster.options.cluster_options import ServiceOptions

app = Verbs(no_args_is_help=True, help="Servers that a Ray cluster keeps up by itself.")

Name = Annotated[str, typer.Argument(help="The service's name.")]
Cluster = Annotated[
    str,
    typer.Option(envvar="RAY_ADDRESS", help="Ray address: auto (one on this machine), HOST:PORT."),
]


@app.command("start", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def start(
    context: typer.Context,
    name: Name,
    *,
    keep_restarts: Annotated[
        int, typer.Option(help="Times in ten minutes that a server that ended is restarted.")
    ] = 5,
    ray: Cluster = "auto",
) -> None:
    """Start a server on this node, kept up by the cluster; all other options are serve's.

    It outlives this command. A server that dies, or whose keeper dies, is restarted; with
    --journal it continues with the requests it had.

    Example: paceline service start chat --target smollm2-135m --listen 0.0.0.0:50051 --journal DIR
    """
    arguments = tuple(context.args)
    options = ServiceOptions(
        action="start",
        name=name,
        arguments=arguments,
        restarts=keep_restarts,
        ray_address=ray,
    )
    run_verb(table.service, options)


@app.command("list")
def list_services(*, ray: Cluster = "auto", json: Json = False) -> None:
    """Show all services: state, time since ready, restarts, where they listen."""
    run_verb(table.service, ServiceOptions(action="list", ray_address=ray, json=json))


@app.command("logs")
def logs(name: Name, *, ray: Cluster = "auto") -> None:
    """Print the last lines of a service's output."""
    run_verb(table.service, ServiceOptions(action="logs", name=name, ray_address=ray))


@app.command("stop")
def stop(name: Name, *, ray: Cluster = "auto") -> None:
    """Finish requests in flight, reject new ones, and end the service."""
    run_verb(table.service, ServiceOptions(action="stop", name=name, ray_address=ray))
