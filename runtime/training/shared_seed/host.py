"""The processes of a shared-seed run: its sequencer, its workers, and followers."""

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from parallel.training.shared_seed.step import AnyReplica
from runtime.clock import MonotonicClock
from runtime.errors import ConfigError
from runtime.models.tokenizer import Tokenizer
from runtime.training.job.faults_config import FaultsConfig
from runtime.training.job.job_config import TrainConfig
from runtime.training.job.shared_seed_settings import Terms
from runtime.training.samples import Sampler
from runtime.training.shared_seed.evaluate import LossWork, RewardWork, RoundEvaluation
from runtime.training.shared_seed.member import Member, start_replica
from runtime.training.shared_seed.points import PointsModel
from runtime.training.shared_seed.port import FaultyPort, Joined, Port
from runtime.training.shared_seed.replay import check_base
from runtime.training.shared_seed.rewards import open_judge
from runtime.training.shared_seed.seed_log import Header
from runtime.training.shared_seed.seed_service import ListenSettings, SeedLogServer
from runtime.training.shared_seed.seed_worker import SeedWorker, WorkerProgress, retry
from runtime.training.shared_seed.sequencer import Sequencer
from runtime.training.shared_seed.shared_seed_job import (
    LOG,
    SNAPSHOT,
    open_log,
    rules_of,
    terms_from_json,
    terms_of,
    terms_to_json,
)
from runtime.training.training_data import TextExample

_FOREVER_S = 1e6
_FOLLOW_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SequencerStatus:
    """Progress of a run."""

    round: int
    num_alive: int
    num_machines: int
    num_restored: int
    loss: float | None
    log_bytes: int
    silent_s: dict[str, float]
    """Seconds since a machine of each name sent bytes, or joined."""


class SequencerHost:
    """The sequencer of a job, with its log in the job's directory."""

    def __init__(
        self, config: TrainConfig, header: Header, settings: ListenSettings, inner: str
    ) -> None:
        """Open the log and listen.

        Args:
            config: the job's.
            header: header of the run; an existing log must have the same.
            settings: address and credentials of the service.
            inner: HOST:PORT for the job's own workers, in plaintext.

        Raises:
            ConfigError: the log is damaged or of another run, or an address is in use.
        """
        self._path = Path(config.out) / LOG
        self._log, records = open_log(self._path, header)
        self._records = records
        self._sequencer = Sequencer(self._log, records, rules_of(config), MonotonicClock())
        self._server = SeedLogServer(
            self._sequencer,
            settings,
            inner=inner,
            terms=terms_to_json(terms_of(config)),
            snapshot=Path(config.out) / SNAPSHOT,
        )
        self._server.start()

    @property
    def addresses(self) -> tuple[str, str]:
        """Its addresses: for workers outside, and for the job's own workers."""
        return self._server.address, self._server.inner_address

    def status(self) -> SequencerStatus:
        """Return the progress of the run; raise PacelineError if it cannot continue."""
        self._server.check()
        sequencer = self._sequencer
        return SequencerStatus(
            round=sequencer.round,
            num_alive=sequencer.num_alive,
            num_machines=sequencer.num_joined,
            num_restored=sequencer.num_restored,
            loss=sequencer.loss,
            log_bytes=self._path.stat().st_size,
            silent_s=sequencer.silent_s(),
        )

    def close(self) -> None:
        """Stop listening and close the log."""
        self._server.stop()
        self._log.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Settings of a worker."""

    directory: Path
    """The model."""
    name: str
    reward: str = ""
    """Scorer of answers, where the run trains by rewards."""
    threads: int = 1
    device: str = "cpu"
    faults: FaultsConfig
    give_up_s: float = 300.0


class WorkerHost:
    """A worker with its model and data; the data stays here."""

    def __init__(
        self,
        port: Port,
        settings: WorkerSettings,
        examples: Callable[[Terms], Sequence[TextExample]],
    ) -> None:
        """Read the run's header, load the model, and prepare.

        Raises:
            ConfigError: the model is not the run's, or the data cannot be used.
            PeerError: the sequencer cannot be reached.
        """
        torch.set_num_threads(settings.threads)
        self._settings = settings
        observed: Joined = retry(
            lambda: port.join(settings.name, observes=True), give_up_s=settings.give_up_s
        )
        check_base(observed.header, settings.directory)
        terms = terms_from_json(observed.terms_json)
        model = PointsModel.load(settings.directory, observed.header, settings.device)
        work = _work(model, observed.header, terms, settings, examples(terms))
        self._port = FaultyPort(port, settings.faults) if _is_faulty(settings.faults) else port
        self._busy_since_s = 0.0
        self.worker = SeedWorker(
            self._port,
            name=settings.name,
            fresh=_fresh(observed.header, model, settings.device),
            work=work,
            give_up_s=settings.give_up_s,
            before=self._inject_faults,
        )

    def run(self, after: Callable[[SeedWorker], bool] = lambda _: True) -> WorkerProgress:
        """Work until the run is done, or `after` returns False."""
        try:
            self.worker.run(after)
        finally:
            self._port.close()
        return self.worker.progress

    def _inject_faults(self, member: Member) -> None:
        """Inject the configured faults: be slow, hang or die."""
        faults = self._settings.faults
        draw = random.Random(f"{faults.seed}/{member.machine}/{member.round}")
        slow, hang, kill = draw.random(), draw.random(), draw.random()
        now_s = time.monotonic()
        if kill < faults.kill:
            os._exit(1)
        if hang < faults.hang:
            time.sleep(_FOREVER_S)
        if slow < faults.slow and self._busy_since_s:
            time.sleep((now_s - self._busy_since_s) * (faults.factor - 1))
        self._busy_since_s = time.monotonic()


def follow(
    port: Port,
    header: Header,
    model: PointsModel,
    after: Callable[[SeedWorker], bool],
    *,
    sleep: Callable[[float], None] = time.sleep,
    give_up_s: float = 300.0,
) -> SeedWorker:
    """Follow a run without working for it, from its last snapshot to its end.

    `after` is called after each round and every second; `sleep` while the sequencer is unreachable.
    """
    follower = SeedWorker(
        port,
        name="follower",
        fresh=_fresh(header, model, "cpu"),
        work=None,
        give_up_s=give_up_s,
        wait_s=_FOLLOW_S,
        sleep=sleep,
    )
    follower.run(after)
    return follower


def _fresh(header: Header, model: PointsModel, device: str) -> Callable[[Header], AnyReplica]:
    def fresh(now: Header) -> AnyReplica:
        if now != header:
            raise ConfigError("the sequencer runs another job now: join again")
        return start_replica(header, model.points, device)

    return fresh


def _is_faulty(faults: FaultsConfig) -> bool:
    return faults.lose > 0 or faults.repeat > 0 or faults.delay_s > 0


def _work(
    model: PointsModel,
    header: Header,
    terms: Terms,
    settings: WorkerSettings,
    examples: Sequence[TextExample],
) -> RoundEvaluation:
    tokenizer = Tokenizer.load(settings.directory)
    sampler = Sampler.of(settings.directory, tokenizer, terms.max_length)
    if not terms.by_reward:
        samples = sampler.samples(examples, among_choices=terms.among_choices)
        return LossWork(model, samples, terms, seed=header.seed, eps=header.eps)
    if not settings.reward:
        raise ConfigError(
            "this run trains by rewards: give `reward`, a scorer as module:function or "
            "grpc://HOST:PORT"
        )
    prompts = sampler.prompts(examples, terms.max_answer)
    return RewardWork(
        model,
        tokenizer,
        prompts,
        open_judge(settings.reward),
        terms,
        seed=header.seed,
        eps=header.eps,
    )
