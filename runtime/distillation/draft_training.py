"""Resumable distillation of a drafter from a target's lessons (DistillSpec, arXiv 2310.08461).

All randomness is a function of the seed and the step, and checkpoints hold the optimizer's state
beside the weights, so an interrupted run ends with the same weights as an uninterrupted one.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from parallel.distillation.distill import Divergence, divergence
from parallel.distillation.student import Student
from parallel.model.model_config import ModelConfig
from runtime.distillation.draft_batches import DraftExample, endless_batches, grouped
from runtime.distillation.draft_corpus import CorpusRecord
from runtime.distillation.draft_teacher import Lesson
from runtime.errors import ConfigError
from runtime.files.strict_json import parse_json

# Shape suffixes: B = sequences, T = positions, E = hidden size, N = positions with a lesson,
# C = teacher's candidates, K = tokens of the head, V = vocabulary.

_OWN = 1 << 32  # offset of the keys of on-policy steps, distinct from the keys of epochs
_OWN_TOKENS = 16  # tokens that the drafter generates: longer than a draft
_FLOOR = 0.1  # share of the peak learning rate at the end of the decay


class Precision(StrEnum):
    """The precision of matrix products in training."""

    AUTO = "auto"
    """bfloat16 where the device has instructions for it, else float32."""
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """The hyperparameters of a drafter's training."""

    steps: int
    batch_tokens: int = 4096
    learning_rate: float = 1e-3
    warmup: float = 0.02
    """Share of the steps that warm up the learning rate."""
    weight_decay: float = 0.01
    clip: float = 1.0
    divergence: Divergence = Divergence.FORWARD_KL
    tune: float = 0.25
    """Share of the steps, at the end, that minimize total variation, which sets acceptance."""
    on_policy: float = 0.0
    """Share of the steps that train on the drafter's own text, scored by the target."""
    train_head: bool = True
    precision: Precision = Precision.AUTO
    """The precision of matrix products; weights and optimizer state are float32."""
    seed: int = 0
    evaluate_every: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftProgress:
    """The progress of a run after a step."""

    step: int
    loss: float
    acceptance: float | None
    """Acceptance on held-out answers; None between evaluations."""


class DraftTrainer:
    """A training run in a directory; `run` continues from its last checkpoint."""

    def __init__(
        self,
        config: ModelConfig,
        start: dict[str, Tensor],
        *,
        embedding: Tensor,
        head_token_ids: Tensor,
        settings: TrainSettings,
        directory: Path | None,
        device: torch.device,
        head: Tensor | None = None,
    ) -> None:
        """Initialize the student.

        Args:
            config: the drafter's shape.
            start: the initial weights, by Hugging Face name.
            embedding: [V, E] the target's embedding.
            head_token_ids: [K] the tokens that it can draft, in ascending order.
            settings: the hyperparameters.
            directory: the directory of checkpoints; None keeps none and excludes `run`.
            device: the device to train on.
            head: [K, E] the initial head; None copies the rows of the embedding.
        """
        self.settings = settings
        self._directory = directory
        self._device = device
        self._bfloat16 = _in_bfloat16(settings.precision, device)
        self._embedding = embedding.to(device)
        columns = torch.full((len(embedding),), -1)
        columns[head_token_ids] = torch.arange(len(head_token_ids))
        self._columns = columns.to(device)
        self.head_token_ids = head_token_ids
        rows = embedding[head_token_ids] if head is None else head
        self.student = Student(config, start, head=rows).to(device)
        self.student.head.requires_grad_(settings.train_head)
        trained = [p for p in self.student.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            trained, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.step = 0
        self.best = -1.0
        self.best_step = 0
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    def run(
        self,
        training: list[DraftExample],
        held_out: list[DraftExample],
        on_best: Callable[["DraftTrainer", dict[str, float]], None],
        *,
        teach: Callable[[list[CorpusRecord]], list[Lesson]] | None = None,
    ) -> Iterator[DraftProgress]:
        """Train to the last step; yield the progress after each.

        Args:
            training: the training examples.
            held_out: the examples that acceptance is measured on.
            on_best: called with the acceptance by source at each new maximum.
            teach: returns the target's lessons for new text; required with `on_policy`.
        """
        self._resume()
        self.student.train()
        batches = self._batches(training)
        for step in range(self.step, self.settings.steps):
            rate = self.settings.learning_rate * _schedule(step, self.settings)
            batch = next(batches)
            rng = np.random.Generator(np.random.Philox(key=[self.settings.seed, step + _OWN]))
            if rng.random() < self.settings.on_policy:
                assert teach is not None, "on-policy steps need the target"
                own = self.own_text([example.record for example in batch], rng)
                batch = [DraftExample(*pair) for pair in zip(own, teach(own), strict=True)]
            loss = self._learn(batch, rate, _divergence(step, self.settings))
            self.step = step + 1
            acceptance = None
            if self.step % self.settings.evaluate_every == 0 or self.step == self.settings.steps:
                by_source = self.evaluate(held_out)
                acceptance = by_source["all"]
                if acceptance > self.best:
                    self.best, self.best_step = acceptance, self.step
                    on_best(self, by_source)
                self._save()
            yield DraftProgress(step=self.step, loss=loss, acceptance=acceptance)

    def take_steps(self, examples: list[DraftExample], num_steps: int, *, focus: float) -> float:
        """Train for some steps at a constant learning rate; return the mean loss.

        Args:
            examples: the training examples.
            num_steps: the number of optimizer steps.
            focus: from 0 to 1, how much to reduce the weight of positions where the drafter is
                already right (OSD, arXiv 2310.07177, trains on rejected positions only).
        """
        self.student.train()
        batches = self._batches(examples)
        settings, total = self.settings, 0.0
        for _ in range(num_steps):
            total += self._learn(
                next(batches), settings.learning_rate, settings.divergence, focus=focus
            )
            self.step += 1
        return total / max(1, num_steps)

    def own_text(self, records: list[CorpusRecord], rng: np.random.Generator) -> list[CorpusRecord]:
        """Return the records, cut at a random token of the answer and continued by the drafter.

        It samples at temperature 1, to train on its own mistakes (DistillSpec, section 3).
        """
        cuts = [int(rng.integers(len(record.output_ids))) for record in records]
        texts = [
            [*record.prompt_ids, *record.output_ids[:cut]]
            for record, cut in zip(records, cuts, strict=True)
        ]
        starts = [len(text) for text in texts]
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        with torch.no_grad(), self._precision():
            for _ in range(_OWN_TOKENS):
                longest = max(len(text) for text in texts)
                tokens = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
                hidden_BTE = self.student(self._embedding[tokens.to(self._device)])
                last = torch.tensor([len(text) - 1 for text in texts], device=self._device)
                hidden_BE = hidden_BTE[torch.arange(len(texts), device=self._device), last]
                probs_BK = self.student.score(hidden_BE).float().softmax(dim=1).cpu()
                drawn = probs_BK.multinomial(1, generator=noise).squeeze(1)
                for text, token in zip(texts, self.head_token_ids[drawn].tolist(), strict=True):
                    text.append(token)
        return [
            replace(record, prompt_ids=tuple(text[:start]), output_ids=tuple(text[start:]))
            for record, text, start in zip(records, texts, starts, strict=True)
        ]

    def evaluate(self, examples: list[DraftExample]) -> dict[str, float]:
        """Return how often the drafter's best token equals the target's, by source and for "all".

        Verification tests a draft token only if all tokens before it are accepted. Each position
        here follows the target's own text, so this is the greedy acceptance rate.
        """
        right: dict[str, list[int]] = {"all": [0, 0]}
        with torch.no_grad(), self._precision():
            for batch in grouped(examples, self.settings.batch_tokens):
                hidden_NE, _, _ = self._read(batch)
                columns = self.student.score(hidden_NE).argmax(1).cpu()
                drafted = self.head_token_ids[columns]
                first = 0
                for example in batch:
                    last = first + len(example.record.output_ids)
                    hits = int((drafted[first:last] == example.lesson.ids[:, 0]).sum())
                    for name in ("all", example.record.source):
                        count = right.setdefault(name, [0, 0])
                        count[0] += hits
                        count[1] += last - first
                    first = last
        return {name: hits / max(1, total) for name, (hits, total) in right.items()}

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bfloat16)

    def _learn(
        self, batch: list[DraftExample], rate: float, kind: Divergence, *, focus: float = 0.0
    ) -> float:
        settings = self.settings
        with self._precision():
            hidden_NE, columns_NC, probs_NC = self._read(batch)
            logits_NK = self.student.score(hidden_NE)
        losses_N = divergence(kind, logits_NK, columns_NC, probs_NC)
        right_N = logits_NK.detach().argmax(1) == columns_NC[:, 0]
        weights_N = 1 - focus * right_N.float()
        loss = (losses_N * weights_N).sum() / weights_N.sum().clamp_min(1.0)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), settings.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        # Decay only matrices, not the weights of norms.
        with torch.no_grad():
            for weight in self.student.parameters():
                if weight.requires_grad and weight.dim() > 1:
                    weight.mul_(1 - rate * settings.weight_decay)
        self._optimizer.step()
        return float(loss.detach())

    def _read(self, batch: list[DraftExample]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the hidden states at positions with lessons, and the lessons, for a batch."""
        longest = max(example.length for example in batch)
        tokens = torch.zeros(len(batch), longest, dtype=torch.int64)
        positions = []
        for row, example in enumerate(batch):
            record = example.record
            tokens[row, : example.length] = torch.tensor(
                (record.prompt_ids + record.output_ids)[:-1]
            )
            first = row * longest + len(record.prompt_ids) - 1
            positions.append(torch.arange(first, first + len(record.output_ids)))
        x_BTE = self._embedding[tokens.to(self._device)]
        hidden_NE = self.student(x_BTE).flatten(0, 1)[torch.cat(positions).to(self._device)]
        columns_NC = self._columns[torch.cat([e.lesson.ids for e in batch]).to(self._device)]
        probs_NC = torch.cat([e.lesson.probs for e in batch]).to(self._device)
        return hidden_NE, columns_NC, probs_NC

    def _batches(self, examples: list[DraftExample]) -> Iterator[list[DraftExample]]:
        """Yield batches forever, starting at the current step."""
        settings = self.settings
        return endless_batches(examples, settings.batch_tokens, seed=settings.seed, first=self.step)

    def _save(self) -> None:
        """Save weights and optimizer state; an interrupted write leaves the previous checkpoint."""
        assert self._directory is not None
        tensors: dict[str, Tensor] = {}
        for name, weight in self.student.named_parameters():
            tensors[f"weight.{name}"] = weight.detach()
            state = self._optimizer.state.get(weight, {})
            for key, value in state.items():
                tensors[f"{key}.{name}"] = value
        tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        facts = {
            "step": self.step,
            "best": self.best,
            "best_step": self.best_step,
            "settings": asdict(self.settings),
        }
        partial = self._directory / "checkpoint.partial"
        save_file(tensors, str(partial), metadata={"facts": json.dumps(facts)})
        partial.replace(self._directory / "checkpoint.safetensors")

    def _resume(self) -> None:
        assert self._directory is not None
        file = self._directory / "checkpoint.safetensors"
        if not file.is_file():
            return
        facts = _read_facts(file)
        if facts["settings"] != parse_json(json.dumps(asdict(self.settings)), finite=False):
            raise ConfigError(
                f"{file} is from a run with other settings: use those again, or another `out`"
            )
        tensors = load_file(str(file), device=str(self._device))
        with torch.no_grad():
            for name, weight in self.student.named_parameters():
                weight.copy_(tensors[f"weight.{name}"])
                if f"exp_avg.{name}" in tensors:
                    self._optimizer.state[weight] = {
                        key: tensors[f"{key}.{name}"].clone()
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }
                    self._optimizer.state[weight]["step"] = tensors[f"step.{name}"].cpu().clone()
        self.step, self.best = int(facts["step"]), float(facts["best"])
        self.best_step = int(facts["best_step"])


def _in_bfloat16(precision: Precision, device: torch.device) -> bool:
    if precision is not Precision.AUTO:
        return precision is Precision.BFLOAT16
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _read_facts(file: Path) -> dict[str, Any]:
    with file.open("rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = parse_json(handle.read(size).decode("utf-8"), str(file))
    facts: dict[str, Any] = parse_json(header["__metadata__"]["facts"], str(file), finite=False)
    return facts


def _divergence(step: int, settings: TrainSettings) -> Divergence:
    tuning = step >= settings.steps * (1 - settings.tune)
    return Divergence.TOTAL_VARIATION if tuning else settings.divergence


def _schedule(step: int, settings: TrainSettings) -> float:
    """Return the learning rate as a share of its peak: linear warmup, then cosine decay."""
    rising = max(1, int(settings.steps * settings.warmup))
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, settings.steps - rising)
    return _FLOOR + (1 - _FLOOR) * (1 + math.cos(math.pi * min(1.0, done))) / 2
