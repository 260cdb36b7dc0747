"""A model in training: its trained weights as one vector, and gradients and losses of samples."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from parallel.group import Group
from parallel.training.choices import among_choices
from parallel.training.lora import adapters_off, add_lora, check_targets
from parallel.training.preferences import preference_losses, reward_margins
from runtime.errors import ConfigError
from runtime.training.adapters.base_model import has_tied_head, load_model, load_shapes
from runtime.training.adapters.frozen_base import lengths_of, load_frozen
from runtime.training.adapters.split_base import SplitModel
from runtime.training.adapters.weight_layout import StartPoint, WeightLayout
from runtime.training.adapters.weight_vector import SplitWeights, WeightVector, WholeWeights
from runtime.training.chunk_work import Vector
from runtime.training.job.dpo_config import DpoConfig
from runtime.training.job.job_config import LoraConfig, TrainConfig
from runtime.training.token_rows import TokenRows
from runtime.training.training_data import Sample


class Trainable:
    """A model whose trained weights are one vector, in the order of their names."""

    def __init__(
        self,
        model: PreTrainedModel,
        weights: dict[str, nn.Parameter],
        device: str,
        precision: str = "float32",
        *,
        packs: bool = False,
        vector: WeightVector | None = None,
        dpo: DpoConfig | None = None,
    ) -> None:
        """Train weights of a model.

        Args:
            model: the model with its adapters, or a rank's part of one.
            weights: what is trained, by name.
            device: where it computes.
            precision: of the layers' products.
            packs: whether samples are computed as one row, without padding.
            vector: the weights of all ranks; None where this process has them all.
            dpo: the loss of preferences, where samples are preferences.
        """
        self.model = model
        self.weights = dict(sorted(weights.items()))
        self._vector = vector or WholeWeights(self.weights)
        self._device = device
        self._precision = precision
        self._packs = packs
        self._dpo = dpo or DpoConfig()

    @classmethod
    def load(
        cls,
        directory: Path,
        config: TrainConfig,
        device: str = "cpu",
        group: Group | None = None,
    ) -> "Trainable":
        """Load a checkpoint's model, or a rank's part of it; what is trained is in float32.

        Args:
            directory: the checkpoint.
            config: the job's.
            device: where it computes.
            group: the ranks that the model is split over, of which each makes the same calls; their
                adapters have no values before `set`. None is one rank.

        Raises:
            ConfigError: it has no layers of the configured names, or does not split over the group.
        """
        packs = config.data.batching == "packed"
        if group is not None and group.size > 1:
            part = SplitModel.load(directory, config.base_precision, group)
            if config.method == "full":
                weights = part.trained()
            else:
                weights = lora_weights(part.model, config.lora, config.seed)
            part.join()
            _save_memory(part.model, config)
            vector = SplitWeights(weights, part.split, group)
            return cls(
                part.model,
                weights,
                device,
                config.precision,
                packs=packs,
                vector=vector,
                dpo=config.dpo,
            )
        if config.base_precision == "float32":
            model = load_model(directory)
        else:
            model = load_frozen(directory, config.base_precision)
        if config.method == "full":
            weights = dict(model.named_parameters())
        else:
            weights = lora_weights(model, config.lora, config.seed)
        _save_memory(model, config)
        return cls(model.to(device), weights, device, config.precision, packs=packs, dpo=config.dpo)

    @classmethod
    def adapter(cls, directory: Path, config: TrainConfig) -> "Trainable":
        """Return the adapter alone, on a model without weights: it cannot compute.

        Raises:
            ConfigError: the model has no layers of the configured names.
        """
        model = load_shapes(directory)
        weights = lora_weights(model, config.lora, config.seed)
        if config.lora.dora:
            weights |= lengths_of(directory, config.base_precision, weights)
        return cls(model, weights, "cpu")

    @property
    def start_point(self) -> StartPoint:
        """What is trained, and its values now."""
        has_tied = has_tied_head(self.model)
        layout = WeightLayout(shapes=self._vector.shapes, has_tied_head=has_tied)
        return StartPoint(layout=layout, parameters=self.get())

    def get(self) -> Vector:
        """Return the weights; ranks other than 0 return an empty vector."""
        return self._vector.values()

    def set(self, vector: Vector) -> None:
        """Replace the weights."""
        self._vector.assign(vector)

    def gradient(
        self, samples: Sequence[Sample], dropout_seed: int = 0
    ) -> tuple[Vector, float, int]:
        """Return the samples' summed gradient, their summed loss, and how many losses that sums.

        Ranks other than 0 return an empty vector.
        """
        for weight in self.weights.values():
            weight.grad = None
        torch.manual_seed(dropout_seed)  # dropout depends on the chunk alone
        self.model.train()
        loss, num_losses = self.loss(samples)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        self.model.eval()
        return self._vector.gradients(), float(loss.detach()), num_losses

    def loss(self, samples: Sequence[Sample]) -> tuple[Tensor, int]:
        """Return the summed loss of samples, and how many losses it sums.

        Of preferences, each pair has one; otherwise each token of a completion has its cross
        entropy.
        """
        if samples[0].rejected is not None:
            return self.pair_losses(self.margins(samples)).sum(), len(samples)
        rows = TokenRows.of(samples, packed=self._packs)
        choices = [s.choices for s in samples for _ in range(s.num_loss_tokens)]
        allowed = among_choices(self._logits(rows), choices)
        learned = rows.learned.to(self._device)
        return F.cross_entropy(allowed, learned, reduction="sum"), len(learned)

    def margins(self, pairs: Sequence[Sample]) -> Tensor:
        """Return how much more each pair's chosen answer is rewarded than its rejected one, [P].

        The reference is the model without its adapters and without dropout.
        """
        answers = [answer for pair in pairs for answer in pair.answers]
        trains = self.model.training
        self.model.eval()
        with torch.no_grad(), adapters_off(self.model):
            reference = self._log_probs(answers).view(-1, 2)
        self.model.train(trains)
        return reward_margins(self._log_probs(answers).view(-1, 2), reference, beta=self._dpo.beta)

    def pair_losses(self, margins: Tensor) -> Tensor:
        """Return the losses of pairs with these margins, [P]."""
        return preference_losses(margins, label_smoothing=self._dpo.label_smoothing)

    def log_likelihoods(self, samples: Sequence[Sample]) -> list[float]:
        """Return each completion's log probability after its prompt."""
        with torch.inference_mode():
            found: list[float] = self._log_probs(samples).tolist()
        return found

    def scores(self, groups: Sequence[Sequence[Sample]]) -> list[list[float]]:
        """Return the log probability of each alternative of each group.

        Alternatives of one token after the same prompt share one forward of that prompt.
        """
        if not all(_is_one_token_after_one_prompt(group) for group in groups):
            found = iter(self.log_likelihoods([sample for group in groups for sample in group]))
            return [[next(found) for _ in group] for group in groups]
        rows = TokenRows.of([group[0] for group in groups], packed=self._packs)
        with torch.inference_mode():
            log_probs = self._logits(rows).log_softmax(dim=-1)
            return [
                row[[sample.token_ids[-1] for sample in group]].tolist()
                for row, group in zip(log_probs, groups, strict=True)
            ]

    def answer(self, prompt: Sequence[int], *, ends: Collection[int], max_tokens: int) -> list[int]:
        """Return the greedy continuation of a prompt, up to an end token or `max_tokens`."""
        ids = torch.tensor([list(prompt)], device=self._device)
        with torch.inference_mode(), self._autocast():
            made = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                do_sample=False,
                use_cache=True,
                eos_token_id=sorted(ends) or None,
                pad_token_id=min(ends, default=0),
            )
        tokens: list[int] = made[0, len(prompt) :].tolist()
        return list(takewhile(lambda token: token not in ends, tokens))

    def _autocast(self) -> AbstractContextManager[object]:
        lower = self._precision != "float32"
        return torch.autocast(self._device, torch.bfloat16, enabled=lower)

    def _log_probs(self, samples: Sequence[Sample]) -> Tensor:
        """Return each completion's log probability after its prompt, [B]."""
        rows = TokenRows.of(samples, packed=self._packs)
        log_probs = self._logits(rows).log_softmax(dim=-1)
        each = log_probs.gather(1, rows.learned.to(self._device).unsqueeze(1)).squeeze(1)
        parts = torch.split(each, [sample.num_loss_tokens for sample in samples])
        return torch.stack([part.sum() for part in parts])

    def _logits(self, rows: TokenRows) -> Tensor:
        """Return the logits that predict the learned tokens, [N, V], in float32."""
        is_learned = rows.is_learned.to(self._device)
        with self._autocast(), head_at(self.model, is_learned):
            inputs = {name: part.to(self._device) for name, part in rows.inputs.items()}
            logits: Tensor = self.model(**inputs).logits
        assert logits.dim() == 2, "the model's head was not called as a module"
        return logits.float()


def lora_weights(model: nn.Module, config: LoraConfig, seed: int) -> dict[str, nn.Parameter]:
    """Add the configured adapters to a model; raise ConfigError if it has no such layers."""
    try:
        check_targets(model, config.targets)
    except ValueError as error:
        raise ConfigError(f"`lora.targets`: {error}") from error
    try:
        return add_lora(
            model,
            config.targets,
            rank=config.rank,
            alpha=config.alpha,
            seed=seed,
            dropout=config.dropout,
            rank_stabilized=config.rank_stabilized,
            dora=config.dora,
            ranks=config.rank_pattern,
            alphas=config.alpha_pattern,
        )
    except ValueError as error:
        raise ConfigError(f"`lora.rank_pattern`, `lora.alpha_pattern`: {error}") from error


@contextmanager
def head_at(model: PreTrainedModel, is_learned: Tensor) -> Iterator[None]:
    """Compute a model's logits only where `is_learned`, [B, T], is true; they are [N, V] then.

    The head is the widest layer, and most positions of a sample are not learned. What a family does
    to its logits after the head, as a cap, is unchanged.
    """

    def choose(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0][is_learned], *inputs[1:])

    # First of the hooks, so that what ranks exchange before the head is small.
    hook = model.get_output_embeddings().register_forward_pre_hook(choose, prepend=True)
    try:
        yield
    finally:
        hook.remove()


def _save_memory(model: PreTrainedModel, config: TrainConfig) -> None:
    """Keep only the layers' inputs, where the job asks for that."""
    if config.gradient_checkpointing:
        new = getattr(model, "activation_checkpointing_enable", None)
        (new or model.gradient_checkpointing_enable)({"use_reentrant": False})


def _is_one_token_after_one_prompt(group: Sequence[Sample]) -> bool:
    prompts = {sample.token_ids[:-1] for sample in group}
    return len(prompts) == 1 and all(sample.num_loss_tokens == 1 for sample in group)
