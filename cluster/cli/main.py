"""The command line. Verbs live in modules of their own, loaded when asked for, so help is quick."""

import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from cluster.cli import bench_verbs as cli_bench
from cluster.cli import client_verbs as cli_client
from cluster.cli import cluster_verbs as cli_cluster
from cluster.cli import docs_verb as cli_docs
from cluster.cli import draft_verbs as cli_draft
from cluster.cli import experiment_verbs as cli_experiment
from cluster.cli import service_verbs as cli_service
from cluster.cli import shared_seed_verbs as cli_seeds
from cluster.cli import simulate_verbs as cli_simulate
from cluster.cli import train_verbs as cli_train
from cluster.cli.command_endings import run_to_end
from cluster.cli.generate_verb import GENERATE
from cluster.cli.generated import add_verb
from cluster.cli.quantize_verb import QUANTIZE
from cluster.cli.serve_verb import DEMO, SERVE
from cluster.cli.utf8 import restart_in_utf8
from cluster.cli.verbs import Verbs
from cluster.train.stopping import stop_signals

app = Verbs(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _show_version(asked: bool) -> None:
    if asked:
        try:
            print(f"paceline {version('paceline')}")
        except PackageNotFoundError:  # run from an upload
            print("paceline, not installed")
        raise typer.Exit


@app.callback(help="Generation and fine-tuning on Ray clusters, exact in both.")
def _all_verbs(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            metavar="",
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """Take what comes before a verb."""


add_verb(app, DEMO)
add_verb(app, GENERATE)
add_verb(app, SERVE)
add_verb(app, cli_client.CLIENT)
add_verb(app, cli_client.TOP)
app.add_typer(cli_client.admin, name="admin")
app.add_typer(cli_service.app, name="service")
add_verb(cli_bench.app, cli_seeds.BENCH_LEARN)
add_verb(cli_bench.app, cli_seeds.BENCH_SHARED_SEED)
app.add_typer(cli_bench.app, name="bench")
app.add_typer(cli_draft.app, name="draft")
app.add_typer(cli_train.app, name="train")
app.add_typer(cli_simulate.app, name="simulate")
app.add_typer(cli_experiment.app, name="experiment")
app.add_typer(cli_cluster.app, name="cluster")
app.add_typer(cli_docs.app, name="docs")
add_verb(app, QUANTIZE)
add_verb(app, cli_cluster.SUBMIT)


def main() -> None:
    """Run the command line and exit; `cluster/cli/command_endings.py` has the exit codes."""
    restart_in_utf8()
    for number in set(stop_signals()) - {signal.SIGINT}:
        signal.signal(number, _on_terminate)
    sys.exit(run_to_end(lambda: app(standalone_mode=False)))


def _on_terminate(signum: int, frame: object) -> None:  # noqa: ARG001
    sys.exit(128 + signum)  # unwinds, so actors and a local Ray end
