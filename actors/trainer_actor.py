"""The processes in which drafters are made and models are fine-tuned."""

import os
from collections.abc import Iterator

import ray

from parallel.drafting.layer_skip import SkipTrial
from runtime.distillation.draft_follow import FollowEvent, FollowJob, run_follow
from runtime.distillation.draft_job import DraftJob, JobEvent, run_job
from runtime.distillation.layer_search import SearchJob, run_search
from runtime.groups.meeting import Home, offer_between
from runtime.groups.rendezvous import GroupOffer, GroupSpec, join_group
from runtime.rank.group_models import NamedModel, on_this_node
from runtime.training.adapters.weight_layout import StartPoint
from runtime.training.chunk_work import ChunkResult, ChunkWork, PreferenceSums, Vector
from runtime.training.job.job_config import TrainConfig
from runtime.training.training_data import Sample
from runtime.training.worker import TrainWorker

_WAIT_S = 300.0
"""Longest wait of a rank for another one; a worker that is silent is replaced long before."""


class DraftTrainerActor:
    """Runs one job; it continues from its checkpoint when started again."""

    def train(self, job: DraftJob) -> Iterator[JobEvent]:
        """Yield the job's events as it advances."""
        yield from run_job(job)

    def follow(self, job: FollowJob) -> Iterator[FollowEvent]:
        """Yield as a drafter waits for traffic and learns from it."""
        yield from run_follow(job)

    def search(self, job: SearchJob) -> Iterator[SkipTrial]:
        """Yield the sets of layers that were tried."""
        yield from run_search(job)


class _Worker:
    """What a worker and each of its ranks do."""

    _worker: TrainWorker

    def work(self, work: ChunkWork, parameters: Vector, worker: int, life: int) -> ChunkResult:
        """Compute a chunk at these parameters; return the sum it ends, if it ends one."""
        return self._worker.work(work, parameters, worker, life)

    def start_point(self) -> StartPoint:
        """Return what is trained, and its values at the start."""
        return self._worker.start_point()

    def correct(self, parameters: Vector, groups: list[list[Sample]], right: list[int]) -> float:
        """Return for how many groups of alternatives the right one is the likeliest."""
        return self._worker.correct(parameters, groups, right)

    def mean_loss(self, parameters: Vector, samples: list[Sample]) -> tuple[float, int]:
        """Return the summed loss of samples, and how many losses it sums."""
        return self._worker.mean_loss(parameters, samples)

    def answer(
        self, parameters: Vector, prompt: tuple[int, ...], ends: frozenset[int], max_tokens: int
    ) -> list[int]:
        """Return the greedy answer to a prompt."""
        return self._worker.answer(parameters, prompt, ends, max_tokens)

    def preferences(self, parameters: Vector, pairs: list[Sample]) -> PreferenceSums:
        """Return how far the model agrees with preferences."""
        return self._worker.preferences(parameters, pairs)


class TrainWorkerActor(_Worker):
    """A worker of a fine-tuning job."""

    def __init__(self, directory: str, config: TrainConfig, samples: list[Sample]) -> None:
        known = [NamedModel(directory, config.model)]
        self._worker = TrainWorker(on_this_node(directory, known), config, samples)

    def pid(self) -> int:
        """Return this process's id."""
        return os.getpid()


class TrainRankActor(_Worker):
    """A rank of a worker of a fine-tuning job; every rank gets the same calls."""

    def __init__(
        self, directory: str, config: TrainConfig, samples: list[Sample], rank: int
    ) -> None:
        self._directory = directory
        self._config = config
        self._samples = samples
        self._rank = rank
        self._offer: GroupOffer | None = None

    def home(self) -> Home:
        """Return where this process runs."""
        return Home(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address())

    def offer(self, *homes: Home) -> GroupSpec:
        """Open the meeting point of all ranks, given where each runs (rank 0)."""
        workers = self._config.workers
        wait_s = max(_WAIT_S, 2 * workers.lost_after_s)
        self._offer = offer_between(
            homes, role="worker", backend=workers.tp_backend, device="cpu", timeout_s=wait_s
        )
        return self._offer.spec

    def open(self, spec: GroupSpec) -> int:
        """Join the other ranks and load a part of the model; return this process's id."""
        group = self._offer.join() if self._offer is not None else join_group(spec, self._rank)
        known = [NamedModel(self._directory, self._config.model)]
        directory = on_this_node(self._directory, known)
        self._worker = TrainWorker(directory, self._config, self._samples, group)
        return os.getpid()
