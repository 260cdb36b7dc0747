"""The processes of shared-seed training."""

import os
from pathlib import Path

from runtime.channels.credentials import Credentials
from runtime.training.job.job_config import TrainConfig
from runtime.training.shared_seed.host import (
    SequencerHost,
    SequencerStatus,
    WorkerHost,
    WorkerSettings,
)
from runtime.training.shared_seed.port import GrpcPort
from runtime.training.shared_seed.seed_log import Header
from runtime.training.shared_seed.seed_service import ListenSettings
from runtime.training.shared_seed.seed_worker import WorkerProgress
from runtime.training.training_data import TextExample


class SequencerActor:
    """Closes the rounds of a run."""

    def __init__(
        self, config: TrainConfig, header: Header, settings: ListenSettings, inner: str
    ) -> None:
        self._host = SequencerHost(config, header, settings, inner)

    def pid(self) -> int:
        """Return this process's id."""
        return os.getpid()

    def addresses(self) -> tuple[str, str]:
        """Return its addresses: for outside machines, and for the job's own workers."""
        return self._host.addresses

    def status(self) -> SequencerStatus:
        """Return how far the run is."""
        return self._host.status()


class SeedWorkerActor:
    """A worker of a shared-seed run."""

    def __init__(self, address: str, token: str, config: TrainConfig) -> None:
        self._port = GrpcPort(address, Credentials(token=token), internal=True)
        self._config = config

    def pid(self) -> int:
        """Return this process's id."""
        return os.getpid()

    def run(self, directory: str, name: str, examples: list[TextExample]) -> WorkerProgress:
        """Load the model and take part until the run is done."""
        config = self._config
        settings = WorkerSettings(
            directory=Path(directory),
            name=name,
            reward=config.shared_seed.reward,
            threads=config.workers.threads,
            device="cuda" if config.workers.gpus > 0 else "cpu",
            faults=config.faults,
        )
        return WorkerHost(self._port, settings, lambda _: examples).run()
