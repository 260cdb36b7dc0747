"""`paceline train join`: work for a shared-seed run from outside its cluster."""

import json
import socket
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from cluster.network.server_connection import credentials_of
from cluster.options.train_options import TrainJoinOptions
from cluster.train.stopping import StopSignals
from runtime.errors import ConfigError
from runtime.files.strict_json import read_json_lines
from runtime.models.checkpoint import resolve_model
from runtime.models.tokenizer import Tokenizer
from runtime.training.job.shared_seed_settings import Terms
from runtime.training.shared_seed.host import WorkerHost, WorkerSettings
from runtime.training.shared_seed.port import GrpcPort
from runtime.training.shared_seed.seed_worker import SeedWorker, retry
from runtime.training.shared_seed.shared_seed_job import data_of
from runtime.training.training_data import TextExample, read_examples

_LOOK_S = 30.0
_NOTES = Console(stderr=True, highlight=False)


def run(options: TrainJoinOptions) -> int:
    """Work until the run is done, or SIGTERM; return the exit code.

    Raises:
        ConfigError: the run rejects this machine, or model or data cannot be used.
        PeerError: the sequencer was silent for too long.
    """
    if not any(True for _ in read_json_lines(options.data)):
        raise ConfigError(f"`data` {options.data} is empty: write one JSON object on each line")
    port = GrpcPort(options.connect.server, credentials_of(options.connect))
    with _NOTES.status(f"looking for the run at {options.connect.server}"):
        patience_s = min(options.give_up_s, _LOOK_S)
        observed = retry(lambda: port.join("looks", observes=True), give_up_s=patience_s)
    directory = resolve_model(options.model or observed.header.model)
    tokenizer = Tokenizer.load(directory)

    def examples(terms: Terms) -> Sequence[TextExample]:
        return read_examples(options.data, data_of(terms, options.data), tokenizer)

    settings = WorkerSettings(
        directory=directory,
        name=options.name or socket.gethostname()[:64],
        reward=options.reward,
        threads=options.threads,
        device=options.device,
        faults=options.faults,
        give_up_s=options.give_up_s,
    )
    with _NOTES.status("loading the model"):
        host = WorkerHost(port, settings, examples)
    with StopSignals() as stopping, _NOTES.status("joining") as status:

        def after(worker: SeedWorker) -> bool:
            progress = worker.progress
            status.update(
                f"machine {progress.machine}: round {progress.round}, loss {progress.loss:.3f}, "
                f"{progress.num_rows:,} sequences"
            )
            return not stopping.asked

        progress = host.run(after)
    if options.json:
        print(json.dumps(asdict(progress) | {"left": stopping.asked}))
    else:
        why = "left" if stopping.asked else "the run is done"
        _NOTES.print(f"machine {progress.machine}: {why} at round {progress.round}")
    return 0
