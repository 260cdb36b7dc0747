"""A worker of a training job: gradients of chunks at given parameters.

A worker is one process, or a group of ranks that split the model and are called alike; rank 0
returns the results. These depend on the parameters and the chunk alone, bit for bit, on every
worker: one chunk is one batch of fixed shape, in float32, on a fixed number of threads.
"""

import math
import os
import random
import time
from pathlib import Path

import numpy as np
import torch

from parallel.group import Group
from runtime.training.adapters.weight_layout import StartPoint
from runtime.training.chunk_work import ChunkResult, ChunkWork, PreferenceSums, Vector
from runtime.training.job.job_config import TrainConfig
from runtime.training.trainable import Trainable
from runtime.training.training_data import Sample

_FOREVER_S = 1e6


class TrainWorker:
    """Computes gradients of chunks, and evaluates: a worker, or one of its ranks."""

    def __init__(
        self,
        directory: Path,
        config: TrainConfig,
        samples: list[Sample],
        group: Group | None = None,
    ) -> None:
        """Load the model, or with a group a rank's part of it."""
        torch.set_num_threads(config.workers.threads)
        device = "cuda" if config.workers.gpus > 0 else "cpu"
        self._trainable = Trainable.load(directory, config, device, group)
        self._group = group
        self._samples = samples
        self._faults = config.faults
        self._version = -1
        self._sum: Vector | None = None
        self._loss_sum = 0.0

    def work(self, work: ChunkWork, parameters: Vector, worker: int, life: int) -> ChunkResult:
        """Compute a chunk at these parameters; return the sum if this completes it.

        `worker` and `life`, how often that worker was replaced, only draw injected faults.
        """
        start_s = time.perf_counter()
        if work.version != self._version:
            self._trainable.set(parameters)
            self._version = work.version
        samples = list(work.given) or [self._samples[index] for index in work.samples]
        gradient, loss_sum, _ = self._trainable.gradient(samples, work.dropout_seed)
        if work.coefficient != 1:
            gradient *= np.float32(work.coefficient)
            loss_sum *= work.coefficient
        if work.first or self._sum is None:
            self._sum, self._loss_sum = gradient, loss_sum
        else:
            self._sum += gradient
            self._loss_sum += loss_sum
        self._inject_faults(work, worker, life, time.perf_counter() - start_s)
        whole = self._sum if work.last else None
        if work.last:
            self._sum = None  # it would be held beside the next gradient
        return ChunkResult(
            key=work.key,
            gradient=whole,
            loss_sum=self._loss_sum,
            seconds=time.perf_counter() - start_s,
        )

    def start_point(self) -> StartPoint:
        """Return what is trained, and its values at the start; call it before any work."""
        return self._trainable.start_point

    def correct(self, parameters: Vector, groups: list[list[Sample]], right: list[int]) -> float:
        """Return for how many groups of alternatives the right one is the likeliest.

        It is NaN if the likelihoods are not finite.
        """
        self._trainable.set(parameters)
        self._version = -1
        hits = 0.0
        for scores, answer in zip(self._trainable.scores(groups), right, strict=True):
            best = max(range(len(scores)), key=scores.__getitem__)
            hits += best == answer if all(map(math.isfinite, scores)) else math.nan
        return hits

    def mean_loss(self, parameters: Vector, samples: list[Sample]) -> tuple[float, int]:
        """Return the summed loss of samples, and how many losses it sums."""
        self._trainable.set(parameters)
        self._version = -1
        with torch.inference_mode():
            loss, num_losses = self._trainable.loss(samples)
        return float(loss), num_losses

    def answer(
        self, parameters: Vector, prompt: tuple[int, ...], ends: frozenset[int], max_tokens: int
    ) -> list[int]:
        """Return the greedy answer to a prompt."""
        self._trainable.set(parameters)
        self._version = -1
        return self._trainable.answer(prompt, ends=ends, max_tokens=max_tokens)

    def preferences(self, parameters: Vector, pairs: list[Sample]) -> PreferenceSums:
        """Return how far the model agrees with preferences."""
        self._trainable.set(parameters)
        self._version = -1
        with torch.inference_mode():
            margins = self._trainable.margins(pairs)
            losses = self._trainable.pair_losses(margins)
        return PreferenceSums(
            num_pairs=len(pairs),
            loss=float(losses.sum()),
            num_right=int((margins > 0).sum()),
            margin=float(margins.sum()),
        )

    def _inject_faults(self, work: ChunkWork, worker: int, life: int, seconds: float) -> None:
        """Inject the configured faults: be slow, hang or die; of a group, one rank.

        They are drawn by job, result, worker and how often that worker was replaced, so a
        replacement may succeed where the first worker failed.
        """
        faults = self._faults
        if faults.slow <= 0 and faults.hang <= 0 and faults.kill <= 0:
            return
        draw = random.Random(f"{faults.seed}/{work.key}/{work.samples}/{worker}/{life}")
        slow, hang, kill = draw.random(), draw.random(), draw.random()
        if self._group is not None and draw.randrange(self._group.size) != self._group.rank:
            return
        if kill < faults.kill:
            os._exit(1)
        if hang < faults.hang:
            time.sleep(_FOREVER_S)
        if slow < faults.slow:
            time.sleep(seconds * (faults.factor - 1))
