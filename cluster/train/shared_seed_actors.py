"""The sequencer and the workers of a shared-seed run as Ray actors; dead ones are restarted."""

import contextlib
import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from actors.shared_seed_actor import SeedWorkerActor, SequencerActor
from cluster.network.ray_errors import is_loss, result_of
from cluster.network.ray_session import beside_driver
from cluster.train.worker_silence import START_S, is_silent
from runtime.channels.credentials import Credentials
from runtime.errors import PacelineError, PeerError, PeerLost
from runtime.training.job.job_config import TrainConfig
from runtime.training.shared_seed.host import SequencerStatus
from runtime.training.shared_seed.port import GrpcPort
from runtime.training.shared_seed.seed_log import Header
from runtime.training.shared_seed.seed_service import ListenSettings
from runtime.training.shared_seed.seed_worker import WorkerProgress
from runtime.training.training_data import TextExample

_STATUS_S = 1.0


class SharedSeedActors:
    """Starts the actors, and restarts those that die."""

    def __init__(
        self,
        config: TrainConfig,
        header: Header,
        directory: Path,
        examples: list[TextExample],
        listen: ListenSettings,
    ) -> None:
        """Start the sequencer, which starts listening, and the workers.

        Raises:
            PacelineError: the sequencer cannot start.
        """
        count = config.workers.count
        self._config = config
        self._header = header
        self._directory = str(directory)
        self._examples = ray.put(examples)
        self._tokens = tuple(secrets.token_hex(16) for _ in range(count + 1))
        self._listen = replace(listen, inner_tokens=self._tokens)
        self._inner = f"{ray.util.get_node_ip_address()}:0"
        self._sequencer_class = ray.remote(SequencerActor).options(
            num_cpus=0, scheduling_strategy=beside_driver(), max_concurrency=4
        )
        workers = config.workers
        self._worker_class = ray.remote(SeedWorkerActor).options(
            num_cpus=workers.cpus, num_gpus=workers.gpus, max_concurrency=2
        )
        self._sequencer = self._start_sequencer()
        self._workers: list[Any] = [None] * count
        self._started_s = [0.0] * count
        self._runs: dict[Any, int] = {}
        self._ended: list[WorkerProgress] = []
        self._asked: Any = None
        self._asked_s = 0.0
        self.status: SequencerStatus | None = None
        """The last status of the sequencer."""
        self.num_lost = 0
        """Workers that were restarted."""
        for slot in range(count):
            self._start_worker(slot)

    @property
    def address(self) -> str:
        """Address for workers outside the cluster."""
        return self._listen.address

    def port(self) -> GrpcPort:
        """Return a connection for the driver."""
        return GrpcPort(self._inner, Credentials(token=self._tokens[-1]), internal=True)

    def pids(self) -> tuple[int, list[int]]:
        """Return the process ids of the sequencer and of the workers."""
        calls = [actor.pid.remote() for actor in (self._sequencer, *self._workers)]
        first, *others = result_of(calls, "a process of the run", timeout_s=START_S)
        return first, others

    def tend(self) -> None:
        """Restart actors that died or are silent.

        Raises:
            PeerLost: too many workers were lost.
            PacelineError: an actor failed.
        """
        self._look_at_sequencer()
        done, _ = ray.wait(list(self._runs), num_returns=len(self._runs), timeout=0)
        for call in done:
            slot = self._runs.pop(call)
            try:
                self._ended.append(result_of(call, f"worker {slot}"))
            except PacelineError as error:
                if not (is_loss(error) or isinstance(error, PeerError)):
                    raise
                self._replace(slot, "died" if is_loss(error) else f"gave up ({error})")
        silent_s = self.status.silent_s if self.status is not None else {}
        for slot in list(self._runs.values()):
            age_s = time.monotonic() - self._started_s[slot]
            lost_after_s = self._config.workers.lost_after_s
            if is_silent(silent_s.get(f"worker {slot}"), age_s, lost_after_s):
                self._replace(slot, "was silent")

    def sleep(self, seconds: float) -> None:
        """Wait, and tend the actors before and after."""
        self.tend()
        time.sleep(seconds)
        self.tend()

    def finish(self, timeout_s: float = 20.0) -> list[WorkerProgress]:
        """Wait until the workers see the end of the run; return the progress of those that do."""
        deadline_s = time.monotonic() + timeout_s
        ended = []
        while self._runs and time.monotonic() < deadline_s:
            done, _ = ray.wait(list(self._runs), num_returns=1, timeout=1.0)
            for call in done:
                del self._runs[call]
                with contextlib.suppress(PacelineError):  # its bytes are in the log
                    ended.append(result_of(call, "a worker"))
        return self._ended + ended

    def close(self) -> None:
        """End all actors."""
        for actor in (*self._workers, self._sequencer):
            ray.kill(actor)

    def _start_sequencer(self) -> Any:
        actor = self._sequencer_class.remote(self._config, self._header, self._listen, self._inner)
        addresses = actor.addresses.remote()
        outer, self._inner = result_of(addresses, "the sequencer", timeout_s=START_S)
        self._listen = replace(self._listen, address=outer)
        return actor

    def _start_worker(self, slot: int) -> None:
        actor = self._worker_class.remote(self._inner, self._tokens[slot], self._config)
        self._workers[slot] = actor
        self._started_s[slot] = time.monotonic()
        call = actor.run.remote(self._directory, f"worker {slot}", self._examples)
        self._runs[call] = slot

    def _replace(self, slot: int, what: str) -> None:
        self.num_lost += 1
        most = self._config.workers.max_losses
        if self.num_lost > most:
            raise PeerLost(
                f"worker {slot} {what}; more than `workers.max_losses`, {most}, were lost"
            )
        ray.kill(self._workers[slot])
        self._runs = {call: other for call, other in self._runs.items() if other != slot}
        self._start_worker(slot)

    def _look_at_sequencer(self) -> None:
        if self._asked is None:
            if time.monotonic() - self._asked_s > _STATUS_S:
                self._asked, self._asked_s = self._sequencer.status.remote(), time.monotonic()
            return
        done, _ = ray.wait([self._asked], timeout=0)
        if not done:
            return
        self._asked = None
        try:
            self.status = result_of(done[0], "the sequencer")
        except PacelineError as error:
            if not is_loss(error):
                raise
            self._sequencer = self._start_sequencer()
