"""A worker of a training job: gradients of chunks at given parameters.

Its results depend on the parameters and the chunk alone, bit for bit, on every worker: one chunk is
one batch of fixed shape, in float32, on a fixed number of threads.
"""

import math
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from parallel.training.choices import among_choices
from parallel.training.lora import add_lora
from runtime.errors import ConfigError
from runtime.training.adapters.base_model import has_tied_head, load_model
from runtime.training.chunk_work import ChunkResult, ChunkWork, Vector
from runtime.training.job.faults_config import FaultsConfig
from runtime.training.job.job_config import LoraConfig, TrainConfig
from runtime.training.training_data import Sample

_FOREVER_S = 1e6


class Trainable:
    """A model whose trained weights are one vector, in the order of their names."""

    def __init__(
        self,
        model: PreTrainedModel,
        weights: dict[str, nn.Parameter],
        device: str,
        precision: str = "float32",
    ) -> None:
        self.model = model
        self.weights = dict(sorted(weights.items()))
        self._device = device
        self._precision = precision

    @classmethod
    def load(cls, directory: Path, config: TrainConfig, device: str = "cpu") -> "Trainable":
        """Load a checkpoint's model in float32.

        Raises:
            ConfigError: it has no layers of the configured names.
        """
        model = load_model(directory)
        if config.method == "full":
            weights = dict(model.named_parameters())
        else:
            weights = lora_weights(model, config.lora, config.seed)
        if config.gradient_checkpointing:
            new = getattr(model, "activation_checkpointing_enable", None)
            (new or model.gradient_checkpointing_enable)({"use_reentrant": False})
        return cls(model.to(device), weights, device, config.precision)

    @property
    def size(self) -> int:
        """Number of trained weights."""
        return sum(weight.numel() for weight in self.weights.values())

    @property
    def has_tied_head(self) -> bool:
        """Whether the model's head is its embedding."""
        return has_tied_head(self.model)

    def get(self) -> Vector:
        """Return the weights."""
        parts = [weight.detach().reshape(-1) for weight in self.weights.values()]
        return torch.cat(parts).cpu().numpy().copy()

    def set(self, vector: Vector) -> None:
        """Replace the weights."""
        first = 0
        with torch.no_grad():
            for weight in self.weights.values():
                part = torch.from_numpy(vector[first : first + weight.numel()].copy())
                weight.copy_(part.view_as(weight))
                first += weight.numel()

    def gradient(self, samples: list[Sample], dropout_seed: int = 0) -> tuple[Vector, float, int]:
        """Return the samples' summed gradient, their summed loss, and their tokens in the loss."""
        for weight in self.weights.values():
            weight.grad = None
        torch.manual_seed(dropout_seed)  # dropout depends on the chunk alone
        self.model.train()
        loss, num_tokens = self.loss(samples)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        self.model.eval()
        parts = [
            (weight.grad if weight.grad is not None else torch.zeros_like(weight)).reshape(-1)
            for weight in self.weights.values()
        ]
        return torch.cat(parts).cpu().numpy().copy(), float(loss.detach()), num_tokens

    def loss(self, samples: list[Sample]) -> tuple[Tensor, int]:
        """Return the summed cross entropy of the samples' completions, and their tokens."""
        logits, ids, mask = self._logits(samples)
        learned = ids[:, 1:][mask]
        choices = [s.choices for s in samples for _ in range(s.num_loss_tokens)]
        allowed = among_choices(logits[:, :-1][mask], choices)
        return F.cross_entropy(allowed, learned, reduction="sum"), len(learned)

    def log_likelihoods(self, samples: list[Sample]) -> list[float]:
        """Return each completion's log probability after its prompt."""
        with torch.inference_mode():
            logits, ids, mask = self._logits(samples)
            log_probs = logits[:, :-1].log_softmax(dim=-1)
            each = log_probs.gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)
            found: list[float] = (each * mask).sum(dim=1).tolist()
        return found

    def _logits(self, samples: list[Sample]) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, [B, T, V], tokens, [B, T], and the loss mask, [B, T - 1]."""
        length = max(len(sample.token_ids) for sample in samples)
        ids = torch.zeros((len(samples), length), dtype=torch.int64)
        there = torch.zeros((len(samples), length), dtype=torch.int64)
        mask = torch.zeros((len(samples), length - 1), dtype=torch.bool)
        for row, sample in enumerate(samples):
            size = len(sample.token_ids)
            ids[row, :size] = torch.tensor(sample.token_ids)
            there[row, :size] = 1
            mask[row, sample.num_prompt - 1 : size - 1] = True
        ids, there, mask = ids.to(self._device), there.to(self._device), mask.to(self._device)
        lower = self._precision != "float32"
        with torch.autocast(self._device, torch.bfloat16, enabled=lower):
            logits = self.model(input_ids=ids, attention_mask=there).logits
        return logits.float(), ids, mask


def lora_weights(model: nn.Module, config: LoraConfig, seed: int) -> dict[str, nn.Parameter]:
    """Add the configured adapters to a model; raise ConfigError if it has no such layers."""
    try:
        return add_lora(
            model,
            config.targets,
            rank=config.rank,
            alpha=config.alpha,
            seed=seed,
            dropout=config.dropout,
        )
    except ValueError as error:
        raise ConfigError(f"`lora.targets`: {error}") from error


class TrainWorker:
    """Computes gradients of chunks, and evaluates."""

    def __init__(self, directory: Path, config: TrainConfig, samples: list[Sample]) -> None:
        torch.set_num_threads(config.workers.threads)
        device = "cuda" if config.workers.gpus > 0 else "cpu"
        self._trainable = Trainable.load(directory, config, device)
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
        samples = [self._samples[index] for index in work.samples]
        gradient, loss_sum, _ = self._trainable.gradient(samples, work.dropout_seed)
        if work.coefficient != 1:
            gradient *= np.float32(work.coefficient)
            loss_sum *= work.coefficient
        if work.first or self._sum is None:
            self._sum, self._loss_sum = gradient, loss_sum
        else:
            self._sum += gradient
            self._loss_sum += loss_sum
        _inject_faults(self._faults, work, worker, life, time.perf_counter() - start_s)
        whole = self._sum if work.last else None
        return ChunkResult(
            key=work.key,
            gradient=whole,
            loss_sum=self._loss_sum,
            seconds=time.perf_counter() - start_s,
        )

    def correct(self, parameters: Vector, groups: list[list[Sample]], right: list[int]) -> float:
        """Return for how many groups of alternatives the right one is the likeliest.

        It is NaN if the likelihoods are not finite.
        """
        self._trainable.set(parameters)
        self._version = -1
        hits = 0.0
        for samples, place in zip(groups, right, strict=True):
            scores = self._trainable.log_likelihoods(samples)
            best = max(range(len(scores)), key=scores.__getitem__)
            hits += best == place if all(map(math.isfinite, scores)) else math.nan
        return hits

    def mean_loss(self, parameters: Vector, samples: list[Sample]) -> tuple[float, int]:
        """Return the summed loss of samples, and their number of tokens in the loss."""
        self._trainable.set(parameters)
        self._version = -1
        with torch.inference_mode():
            loss, num_tokens = self._trainable.loss(samples)
        return float(loss), num_tokens


def _inject_faults(
    faults: FaultsConfig, work: ChunkWork, worker: int, life: int, seconds: float
) -> None:
    """Inject the configured faults: be slow, hang or die.

    They are drawn by job, result, worker and how often that worker was replaced, so a replacement
    may succeed where the first worker failed.
    """
    if faults.slow <= 0 and faults.hang <= 0 and faults.kill <= 0:
        return
    draw = random.Random(f"{faults.seed}/{work.key}/{work.samples}/{worker}/{life}")
    slow, hang, kill = draw.random(), draw.random(), draw.random()
    if kill < faults.kill:
        os._exit(1)
    if hang < faults.hang:
        time.sleep(_FOREVER_S)
    if slow < faults.slow:
        time.sleep(seconds * (faults.factor - 1))
