"""A model that is evaluated at many points near its weights, several in one forward pass.

Nothing is perturbed in place: a point is an adapter of its own, or a thin product added to a
layer's output, so the weights are the same bits before and after.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from parallel.training.choices import among_choices
from parallel.training.grouped import GroupedLora, GroupedShift
from parallel.training.lora import check_targets
from parallel.training.shared_seed.directions import Direction, signs, start_uniform
from parallel.training.shared_seed.space import DenseSpace, LowRankSpace, Space
from runtime.errors import ConfigError
from runtime.models.tokenizer import Tokenizer
from runtime.training.adapters.base_model import load_model, load_shapes
from runtime.training.shared_seed.seed_log import Header
from runtime.training.trainable import head_at
from runtime.training.training_data import Sample

LORA, LINEAR = "lora", "linear"
_Module = TypeVar("_Module", bound=nn.Module)


class LossSum(NamedTuple):
    """A batch's loss, summed in float64, and its number of tokens in the loss."""

    total: float
    num: int


class Points(Protocol):
    """The trained weights of a model, and points near them."""

    space: Space

    def start(self) -> Tensor:
        """Return the initial weights; float32, [P]."""
        ...

    def set_points(
        self, theta: Tensor, directions: Sequence[Direction], steps: Sequence[float]
    ) -> None:
        """Put the model at `theta + step * direction`, a group of rows for each."""
        ...

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """Return the weights by name."""
        ...


class LoraPoints:
    """Adapters as the trained weights; A starts uniform from the run's seed, B at zero."""

    def __init__(self, layers: dict[str, GroupedLora], seed: int) -> None:
        self._layers = layers
        self._names = sorted(f"{name}.{part}" for name in layers for part in ("lora_A", "lora_B"))
        self._seed = seed
        size = sum(math.prod(self._shape(name)) for name in self._names)
        self.space: Space = DenseSpace(seed, size)

    def start(self) -> Tensor:
        """Return the initial parameters."""
        theta, first = torch.zeros(self.space.size), 0
        for name in self._names:
            shape = self._shape(name)
            stop = first + math.prod(shape)
            if name.endswith("lora_A"):
                bound = 1 / torch.tensor(float(shape[1])).sqrt()
                theta[first:stop] = start_uniform(self._seed, stop - first, first=first) * bound
            first = stop
        return theta

    def set_points(
        self, theta: Tensor, directions: Sequence[Direction], steps: Sequence[float]
    ) -> None:
        """Give each group of rows its own adapter."""
        distinct = list(dict.fromkeys(directions))  # both sides of a direction are drawn once
        drawn = signs(self._seed, distinct, self.space.size, device=theta.device)
        far = torch.tensor(steps, dtype=torch.float32, device=theta.device)
        points = torch.stack(
            [
                theta + drawn[distinct.index(direction)] * step
                for direction, step in zip(directions, far, strict=True)
            ]
        )
        parts = dict(zip(self._names, torch.split(points, self._sizes(), dim=1), strict=True))
        for name, layer in self._layers.items():
            layer.set_points(parts[f"{name}.lora_A"], parts[f"{name}.lora_B"])

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """Return A and B of each layer, by the names that `add_lora` gives them."""
        parts = zip(self._names, torch.split(theta, self._sizes()), strict=True)
        return {name: part.view(self._shape(name)) for name, part in parts}

    def _sizes(self) -> list[int]:
        return [math.prod(self._shape(name)) for name in self._names]

    def _shape(self, name: str) -> tuple[int, int]:
        layer, _, part = name.rpartition(".")
        found = self._layers[layer]
        if part == "lora_A":
            return found.rank, found.base.in_features
        return found.base.out_features, found.rank


class LinearPoints:
    """The linear layers' own weights, along low-rank directions."""

    def __init__(self, layers: dict[str, GroupedShift], seed: int, rank: int) -> None:
        self._layers = dict(sorted(layers.items()))
        shapes = [layer.base.weight.shape for layer in self._layers.values()]
        self._space = LowRankSpace(seed, tuple((s[0], s[1]) for s in shapes), rank)
        self.space: Space = self._space

    def start(self) -> Tensor:
        """Return the model's own weights."""
        return torch.cat([layer.base.weight.flatten() for layer in self._layers.values()])

    def set_points(
        self, theta: Tensor, directions: Sequence[Direction], steps: Sequence[float]
    ) -> None:
        """Set the layers to `theta`, and move each group of rows along its direction."""
        far = torch.tensor(steps, dtype=torch.float32, device=theta.device) * self.space.scale
        factors = self._space.factors(directions, theta.device)
        first = 0
        for layer, (left, right) in zip(self._layers.values(), factors, strict=True):
            weight = layer.base.weight
            stop = first + weight.numel()
            weight.data = theta[first:stop].view_as(weight)
            layer.set_points(left * far.view(-1, 1, 1), right.to(torch.float32))
            first = stop

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """Return the layers' weights."""
        sizes = [layer.base.weight.numel() for layer in self._layers.values()]
        return {
            f"{name}.weight": part.view_as(layer.base.weight)
            for (name, layer), part in zip(
                self._layers.items(), torch.split(theta, sizes), strict=True
            )
        }


class PointsModel:
    """A model whose rows are at several points."""

    def __init__(self, model: PreTrainedModel, points: Points, device: str = "cpu") -> None:
        self.model = model
        self.points = points
        self._device = device

    @classmethod
    def load(
        cls, directory: Path, header: Header, device: str = "cpu", *, empty: bool = False
    ) -> "PointsModel":
        """Load a checkpoint in float32; `empty` loads the shapes only.

        Raises:
            ConfigError: it has no layers of the configured names.
        """
        model = load_shapes(directory) if empty else load_model(directory)
        model.requires_grad_(requires_grad=False)
        return cls(model if empty else model.to(device), _points(model, header), device)

    def losses(
        self,
        theta: Tensor,
        directions: Sequence[Direction],
        steps: Sequence[float],
        batches: Sequence[Sequence[Sample]],
    ) -> list[LossSum]:
        """Return the loss of each point's batch.

        Args:
            theta: the weights.
            directions: the direction of each point.
            steps: distance of each point along its direction.
            batches: the batch of each point; all of one size.
        """
        with torch.inference_mode():
            self.points.set_points(theta, directions, steps)
            rows = [sample for batch in batches for sample in batch]
            logits, learned, row = self._loss_logits(rows)
            logits = among_choices(logits, [rows[index].choices for index in row.tolist()])
            each = F.cross_entropy(logits, learned, reduction="none").double()
            group = row // len(batches[0])
            total = torch.zeros(len(batches), dtype=torch.float64, device=each.device)
            total.index_add_(0, group, each)
            nums = torch.bincount(group, minlength=len(batches))
        return [LossSum(*pair) for pair in zip(total.tolist(), nums.tolist(), strict=True)]

    def log_likelihoods(self, theta: Tensor, samples: Sequence[Sample]) -> list[float]:
        """Return each completion's log probability after its prompt, at `theta` itself."""
        with torch.inference_mode():
            self.points.set_points(theta, [Direction(0, 0, 0)], [0.0])
            logits, learned, row = self._loss_logits(samples)
            each = -F.cross_entropy(logits, learned, reduction="none").double()
            total = torch.zeros(len(samples), dtype=torch.float64, device=each.device)
            found: list[float] = total.index_add_(0, row, each).tolist()
        return found

    def choice_scores(
        self, theta: Tensor, samples: Sequence[Sample], tokens: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return the log probabilities of alternatives to each sample's learned token.

        Args:
            theta: the weights.
            samples: each with one learned token.
            tokens: the tokens to score for each sample.
        """
        with torch.inference_mode():
            self.points.set_points(theta, [Direction(0, 0, 0)], [0.0])
            logits, _, _ = self._loss_logits(samples)
            log_probs = logits.double().log_softmax(dim=-1)
            return [row[list(some)].tolist() for row, some in zip(log_probs, tokens, strict=True)]

    def answers(
        self,
        theta: Tensor,
        directions: Sequence[Direction],
        steps: Sequence[float],
        prompts: Sequence[Sequence[int]],
        tokenizer: Tokenizer,
        max_tokens: int,
    ) -> list[str]:
        """Return the greedy answers to all prompts at each point, one point after the other."""
        ends = sorted(tokenizer.eos_ids)
        length = max(len(prompt) for prompt in prompts)
        ids = torch.zeros((len(prompts), length), dtype=torch.int64)
        there = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt) :] = torch.tensor(list(prompt))
            there[row, length - len(prompt) :] = 1
        with torch.inference_mode():
            self.points.set_points(theta, directions, steps)
            made = self.model.generate(
                ids.repeat(len(directions), 1).to(self._device),
                attention_mask=there.repeat(len(directions), 1).to(self._device),
                max_new_tokens=max_tokens,
                do_sample=False,
                use_cache=True,
                eos_token_id=ends or None,
                pad_token_id=ends[0] if ends else 0,
            )
        return [tokenizer.decode(_until(row, ends)) for row in made[:, length:].tolist()]

    def answers_at(
        self,
        theta: Tensor,
        prompts: Sequence[Sequence[int]],
        tokenizer: Tokenizer,
        max_tokens: int,
    ) -> list[str]:
        """Return greedy answers at the weights themselves."""
        return self.answers(theta, [Direction(0, 0, 0)], [0.0], prompts, tokenizer, max_tokens)

    def _loss_logits(self, rows: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits that predict learned tokens, [N, V], these tokens, and their rows, [N].

        The head is the widest layer: it is computed for learned tokens only.
        """
        length = max(len(sample.token_ids) for sample in rows)
        ids = torch.zeros((len(rows), length), dtype=torch.int64)
        there = torch.zeros((len(rows), length), dtype=torch.int64)
        learned = torch.zeros((len(rows), length), dtype=torch.bool)
        for number, sample in enumerate(rows):
            size = len(sample.token_ids)
            ids[number, :size] = torch.tensor(sample.token_ids)
            there[number, :size] = 1
            learned[number, sample.num_prompt : size] = True
        ids, there, learned = (part.to(self._device) for part in (ids, there, learned))
        with head_at(self.model, learned.roll(-1, dims=1)):  # the first token is never learned
            logits = self.model(input_ids=ids, attention_mask=there, use_cache=False).logits
        row, position = learned.nonzero(as_tuple=True)
        return logits.float(), ids[row, position], row


def _until(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """Return the tokens before the first end token."""
    stops = [index for index, token in enumerate(tokens) if token in ends]
    return tokens[: stops[0]] if stops else tokens


def _points(model: nn.Module, header: Header) -> Points:
    if header.weights != LINEAR:
        try:
            check_targets(model, header.targets)
        except ValueError as error:
            raise ConfigError(f"`lora.targets`: {error}") from error
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module is not getattr(model, "lm_head", None)
        and (header.weights == LINEAR or name.rpartition(".")[2] in header.targets)
    ]
    if not found:
        raise ConfigError(f"no linear layer has the name {', '.join(header.targets)}")
    if header.weights == LINEAR:
        shifts = {name: _put(model, name, GroupedShift(layer)) for name, layer in found}
        return LinearPoints(shifts, header.seed, header.direction_rank)
    adapters = {
        name: _put(model, name, GroupedLora(layer, header.rank, header.alpha))
        for name, layer in found
    }
    return LoraPoints(adapters, header.seed)


def _put(model: nn.Module, name: str, module: _Module) -> _Module:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
    return module
