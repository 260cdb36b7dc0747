"""The driver of a shared-seed job: follows the log, evaluates, and writes the results."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from cluster.network.ray_session import RaySession
from cluster.train.evaluator import Evaluator, show_samples
from cluster.train.progress import JobProgress, figures
from cluster.train.shared_seed_actors import SharedSeedActors
from cluster.train.stopping import cancelling
from parallel.training.adamw import Vector, is_finite
from runtime.channels.addresses import check_free
from runtime.channels.listening import server_credentials
from runtime.channels.tls_files import TlsNames
from runtime.channels.tokens import read_tokens
from runtime.errors import PacelineError
from runtime.models.checkpoint import resolve_model
from runtime.models.tokenizer import Tokenizer
from runtime.training.adapters.saving import drop_old_adapters, step_name
from runtime.training.job.config_file import keep_config
from runtime.training.job.job_config import TrainConfig
from runtime.training.job.job_lock import JobLock
from runtime.training.job_checkpoint import JobFiles, RoundReport
from runtime.training.samples import EvalSamples, Sampler
from runtime.training.shared_seed.host import follow
from runtime.training.shared_seed.points import LINEAR, PointsModel
from runtime.training.shared_seed.replay import write_result
from runtime.training.shared_seed.replica_measure import LocalMeasure
from runtime.training.shared_seed.rewards import open_judge
from runtime.training.shared_seed.seed_log import Header, read_log
from runtime.training.shared_seed.seed_service import ListenSettings
from runtime.training.shared_seed.seed_worker import SeedWorker
from runtime.training.shared_seed.shared_seed_job import LOG, SNAPSHOT, header_of
from runtime.training.shared_seed.snapshot import write_snapshot
from runtime.training.training_data import Sample, TextExample, read_examples
from runtime.training.training_step import NotFiniteError

_NOTES = Console(stderr=True, highlight=False)
_TLS_FIELDS = TlsNames(
    certificate="shared_seed.tls_cert",
    private_key="shared_seed.tls_key",
    authority="shared_seed.client_ca",
)


def run_shared_seed(
    config: TrainConfig, lock: JobLock, *, ray_address: str | None, as_json: bool
) -> int:
    """Run the job to its end, from its log if it was cut; return the exit code.

    Raises:
        ConfigError: the configuration, the data or the job's directory cannot be used.
        PeerError: more workers were lost than the configuration allows.
    """
    listen = _listen_settings(config)
    job = _Prepared.make(config)
    if job.is_finished:
        rounds = config.optimizer.steps
        _NOTES.print(f"{config.out} is finished: its log has all {rounds} rounds", soft_wrap=True)
        return _ending(job.files, None, as_json=as_json)
    if not as_json:
        show_samples(job.examples, job.shown, job.tokenizer)
    model = PointsModel.load(job.directory, job.header)
    with RaySession(ray_address, num_actors=config.workers.count + 1):
        actors = SharedSeedActors(config, job.header, job.directory, job.examples, listen)
        try:
            _NOTES.print(_opening(config, job.header, actors, len(job.examples)))
            steps = config.optimizer.steps
            with (
                JobProgress(steps, 0, console=_NOTES) as progress,
                cancelling(lock, progress.note),
            ):
                driver = _Driver(job, model, actors, lock, progress)
                done = follow(actors.port(), job.header, model, driver.after, sleep=actors.sleep)
            others = [] if driver.is_cancelled else actors.finish()
        finally:
            actors.close()
    if driver.is_cancelled:
        return _cancelled(config, done.progress.round, as_json=as_json)
    same = sum(other.digest == done.progress.digest for other in others)
    if same < len(others):
        raise PacelineError(
            f"{len(others) - same} of {len(others)} workers ended with different weights"
        )
    return _ending(job.files, same, as_json=as_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A job whose model and data were checked."""

    config: TrainConfig
    directory: Path
    tokenizer: Tokenizer
    examples: list[TextExample]
    shown: list[Sample]
    """The first samples; empty if answers are scored."""
    tests: EvalSamples
    header: Header
    files: JobFiles

    @property
    def is_finished(self) -> bool:
        """Whether all rounds were closed, and the result was written."""
        out = Path(self.config.out)
        if not (out / LOG).exists() or not (out / "final").is_dir():
            return False
        records = read_log(out / LOG)
        return records.header == self.header and len(records.commits) >= self.config.optimizer.steps

    @classmethod
    def make(cls, config: TrainConfig) -> "_Prepared":
        data = config.data
        directory = resolve_model(config.model)
        tokenizer = Tokenizer.load(directory)
        examples = read_examples(Path(data.train), data, tokenizer, limit=data.limit)
        tests = (
            read_examples(Path(data.eval), data, tokenizer, limit=config.num_eval)
            if data.eval
            else []
        )
        sampler = Sampler.of(directory, tokenizer, data.max_length)
        section = config.shared_seed
        if section.reward:
            open_judge(section.reward)  # fails early
            sampler.prompts(examples, section.max_answer)
            evaluated = EvalSamples.of_prompts(tests, sampler, section.max_answer)
            samples = []
        else:
            evaluated = EvalSamples.of(tests, sampler)
            samples = sampler.samples(examples, among_choices=data.among_choices)
        if note := sampler.cut_note(samples):
            _NOTES.print(note)
        header = header_of(config, directory)
        files = JobFiles(Path(config.out), config)
        files.claim()
        keep_config(config)
        return cls(
            config=config,
            directory=directory,
            tokenizer=tokenizer,
            examples=examples,
            shown=samples[:2],
            tests=evaluated,
            header=header,
            files=files,
        )


class _Driver:
    """Evaluates, reports and writes snapshots as rounds end."""

    def __init__(
        self,
        job: _Prepared,
        model: PointsModel,
        actors: SharedSeedActors,
        lock: JobLock,
        progress: JobProgress,
    ) -> None:
        self._config = job.config
        self._header = job.header
        self._directory = job.directory
        self._files = job.files
        self._model = model
        self._actors = actors
        self._lock = lock
        self._round = -1
        self._since_s = time.monotonic()
        self._judge = _judge(job, model)
        self._progress = progress
        self.is_cancelled = False

    def after(self, worker: SeedWorker) -> bool:
        """Tend the actors; evaluate and write after a round; return False once cancelled."""
        self._actors.tend()
        assert worker.member is not None
        number = worker.member.round
        if number != self._round:
            self._round_ended(worker, number)
            self._round = number
        self.is_cancelled = self._lock.is_cancelled and number < self._config.optimizer.steps
        return not self.is_cancelled

    def _round_ended(self, worker: SeedWorker, number: int) -> None:
        config, first = self._config, self._round < 0
        assert worker.member is not None
        replica = worker.member.replica
        steps = config.optimizer.steps
        if first:
            self._files.cut_metrics(number)
        passed = range(max(self._round, 0) + 1, number + 1) if not first else range(0)
        at_end = number == steps
        judged = (
            (first and number == 0) or at_end or any(n % config.eval_every == 0 for n in passed)
        )
        measured = {}
        if judged and self._judge.has_tests:
            measured = self._judge(replica.theta.cpu().numpy())
            when = "before" if number == 0 else f"round {number}"
            self._progress.note(f"{when}: {figures(measured)}")
        self._check_finite(replica.theta.cpu().numpy(), measured, number)
        if number and (not first or at_end):
            self._files.add_metrics(self._report(worker, number), measured)
        if at_end or any(n % config.shared_seed.snapshot_every == 0 for n in passed):
            write_snapshot(Path(config.out) / SNAPSHOT, replica)
        if at_end or any(n % config.checkpoint.every == 0 for n in passed):
            out = Path(config.out) / ("final" if at_end else step_name(number))
            write_result(out, self._model.points, replica.theta, self._header, self._directory)
            drop_old_adapters(Path(config.out), config.checkpoint.keep)

    def _report(self, worker: SeedWorker, number: int) -> RoundReport:
        now_s = time.monotonic()
        seconds, self._since_s = now_s - self._since_s, now_s
        status = self._actors.status
        commit = worker.last_commit
        entries = commit.entries if commit is not None else ()
        report = RoundReport(
            step=number,
            loss=round(status.loss, 4) if status is not None and status.loss is not None else None,
            num_machines=len({entry.machine for entry in entries}),
            num_scalars=commit.num_scalars if commit is not None else 0,
            num_late=sum(len(e.codes) for e in entries if e.round + 1 != number),
            seconds=round(seconds, 3),
        )
        log_bytes = status.log_bytes if status is not None else 0
        loss = "" if report.loss is None else f"loss {report.loss:.3f}, "
        self._progress.show(
            number,
            f"{loss}{report.num_machines} machines, {report.num_scalars} scalars, "
            f"log {log_bytes / 1000:.1f} kB, lost {self._actors.num_lost}",
        )
        return report

    def _check_finite(self, theta: Vector, measured: Mapping[str, float], number: int) -> None:
        """Raise NotFiniteError for weights, or for what was measured with them."""
        bad = [name for name, value in measured.items() if not math.isfinite(value)]
        if not is_finite(theta):
            bad.insert(0, "a weight")
        if bad:
            raise NotFiniteError(
                f"round {number}: {' and '.join(bad)} is not finite; train with a lower "
                "`optimizer.lr` or `shared_seed.eps` in another `out`"
            )


def _judge(job: _Prepared, model: PointsModel) -> Evaluator:
    measure, section = LocalMeasure(model), job.config.shared_seed
    reward = None
    if section.reward:
        judge = open_judge(section.reward)

        def reward(theta: Vector) -> float:
            return measure.mean_reward(
                theta, job.tests.prompts, job.tokenizer, judge, section.max_answer
            )

    return Evaluator(job.tests, measure, reward=reward)


def _listen_settings(config: TrainConfig) -> ListenSettings:
    section = config.shared_seed
    check_free(section.listen, "shared_seed.listen")
    paths = [Path(t) if t else None for t in (section.tls_cert, section.tls_key, section.client_ca)]
    server_credentials(paths[0], paths[1], paths[2], _TLS_FIELDS)
    token_file = Path(section.token_file) if section.token_file else None
    return ListenSettings(
        address=section.listen,
        tokens=read_tokens(token_file, "shared_seed.token_file"),
        certificate=paths[0],
        private_key=paths[1],
        client_ca=paths[2],
    )


def _opening(
    config: TrainConfig, header: Header, actors: SharedSeedActors, num_samples: int
) -> str:
    section, workers = config.shared_seed, config.workers
    what = "linear weights" if header.weights == LINEAR else f"adapters of rank {header.rank}"
    return (
        f"{what} of {config.model}: {header.size:,} trained weights, {num_samples:,} samples, "
        f"{config.optimizer.steps} rounds, {workers.count} workers here, {section.directions} "
        f"directions each, one byte for each direction\n"
        f"others join with: paceline train join --server {actors.address} --data FILE.jsonl"
    )


def _cancelled(config: TrainConfig, step: int, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"out": config.out, "cancelled": True, "step": step}))
    _NOTES.print(f"cancelled after round {step}; resume with paceline train resume {config.out}")
    return 1


def _ending(files: JobFiles, num_same: int | None, *, as_json: bool) -> int:
    lines = files.metrics()
    last = lines[-1] if lines else {}
    where, log = files.directory / "final", files.directory / LOG
    size = log.stat().st_size
    if as_json:
        found = {"out": str(where), "log": str(log), "log_bytes": size, "same_replicas": num_same}
        print(json.dumps(found | last))
    else:
        _NOTES.print(f"{where}: {figures(last)}; its log, {log}: {size:,} bytes")
        _NOTES.print(f"paceline train verify {where} --log {log} compares them")
    return 0
