"""Shared-seed runs in one process: a toy problem, a server on loopback, machines in threads."""

import threading
from collections.abc import Callable
from pathlib import Path

import torch

from parallel.training.shared_seed.directions import Direction, signs
from parallel.training.shared_seed.space import DenseSpace
from parallel.training.shared_seed.step import AnyReplica, PoolReplica, WeightReplica
from runtime.clock import MonotonicClock
from runtime.training.job.faults_config import FaultsConfig
from runtime.training.shared_seed.estimate import Estimate
from runtime.training.shared_seed.evaluate import RoundEvaluation
from runtime.training.shared_seed.member import Member
from runtime.training.shared_seed.port import FaultyPort, GrpcPort
from runtime.training.shared_seed.seed_log import Header
from runtime.training.shared_seed.seed_service import ListenSettings, SeedLogServer
from runtime.training.shared_seed.seed_worker import SeedWorker
from runtime.training.shared_seed.sequencer import Rules, Sequencer
from runtime.training.shared_seed.shared_seed_job import open_log

SIZE = 40
SEED = 5
EPS = 1e-2
TARGET = torch.linspace(-0.3, 0.3, SIZE)
NO_FAULTS = FaultsConfig()


def header(*, pool: int = 0, hash_every: int = 5) -> Header:
    return Header(
        seed=SEED, model="toy", model_digest=b"\1" * 32, size=SIZE, eps=EPS, pool=pool,
        hash_every=hash_every,
    )  # fmt: skip


def fresh(now: Header) -> AnyReplica:
    """Weights of the toy problem before the first round."""
    if now.pool:
        return PoolReplica(now.seed, now.pool, torch.zeros(SIZE))
    return WeightReplica(DenseSpace(now.seed, SIZE), torch.zeros(SIZE))


def loss_at(theta: torch.Tensor) -> float:
    return float(((theta - TARGET).double() ** 2).sum())


def toy_work(count: int = 2) -> RoundEvaluation:
    """Least squares, two-sided."""

    def work(member: Member) -> Estimate:
        theta, found = member.replica.theta, []
        directions = member.directions(count)
        for direction in directions:
            z = signs(SEED, [Direction(*direction)], SIZE)[0]
            found.append((loss_at(theta + EPS * z) - loss_at(theta - EPS * z)) / (2 * EPS))
        return Estimate(found, loss_at(theta), 2 * count)

    return work


class ToyRun:
    """A sequencer on loopback and machines in threads."""

    def __init__(
        self,
        folder: Path,
        *,
        rules: Rules,
        tokens: tuple[str, ...] = (),
        run_header: Header | None = None,
    ) -> None:
        self.folder = folder
        self.rules = rules
        self.header = run_header or header()
        self._settings = ListenSettings(address="127.0.0.1:0", tokens=tokens)
        self.threads: list[threading.Thread] = []
        self.failures: list[BaseException] = []
        self.start()

    @property
    def log(self) -> Path:
        return self.folder / "seeds.log"

    @property
    def snapshot(self) -> Path:
        return self.folder / "snapshot"

    def start(self) -> None:
        """Start the sequencer, from its log if there is one; on the same port as before."""
        self._file, records = open_log(self.log, self.header)
        self.sequencer = Sequencer(self._file, records, self.rules, MonotonicClock())
        self.server = SeedLogServer(
            self.sequencer, self._settings, terms="{}", snapshot=self.snapshot
        )
        self.server.start()
        self._settings = ListenSettings(address=self.server.address, tokens=self._settings.tokens)

    def stop(self) -> None:
        """End the sequencer without notice: what is not in the log is gone."""
        self.server.stop(grace_s=0.0)
        self._file.close()

    def worker(
        self,
        name: str,
        *,
        works: bool = True,
        faults: FaultsConfig = NO_FAULTS,
        work: RoundEvaluation | None = None,
    ) -> SeedWorker:
        port = FaultyPort(GrpcPort(self.server.address), faults)
        return SeedWorker(
            port,
            name=name,
            fresh=fresh,
            work=(work or toy_work()) if works else None,
            give_up_s=30.0,
            wait_s=2.0,
        )

    def run_in_thread(
        self, worker: SeedWorker, after: Callable[[SeedWorker], bool] = lambda _: True
    ) -> threading.Thread:
        def run() -> None:
            try:
                worker.run(after)
            except BaseException as error:
                self.failures.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.threads.append(thread)
        return thread

    def join(self, timeout_s: float = 60.0) -> None:
        """Wait until all machines are done."""
        for thread in self.threads:
            thread.join(timeout_s)
            assert not thread.is_alive()
        assert not self.failures, self.failures

    def replayed(self) -> AnyReplica:
        """Apply the whole log to the start."""
        replica = fresh(self.header)
        for commit in self.sequencer.commits:
            replica.apply(commit)
        return replica
