"""A rank's part of a model in training: its tensors as transformers' modules, and the exchanges.

Each tensor is read as the part that the rank holds, so that no rank ever needs the memory of the
whole model.
"""

from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from parallel.group import Group
from parallel.model.model_config import ModelConfig
from parallel.training.frozen_linear import FrozenLinear
from parallel.training.lora import LoraLinear, SplitInputs
from parallel.training.tensor_parallel import SplitEmbedding, entered, joined, left
from parallel.training.tensor_split import ModelSplit
from parallel.weights.stored_matrix import Matrix
from runtime.errors import ConfigError
from runtime.models.checkpoint_files import read_checkpoint
from runtime.models.transformers_model import transformers_config
from runtime.training.adapters.base_model import ONE_AT_A_TIME, prepared
from runtime.weights.checkpoint_source import CheckpointSource

_CPU = torch.device("cpu")
_BLOCKS = ("self_attn", "mlp")
"""Modules whose inputs every rank has, and whose outputs are sums of the ranks' parts."""


class WeightSource(Protocol):
    """A model's tensors by name, as `CheckpointSource` reads them."""

    def read(self, name: str) -> Tensor:
        """Return a whole tensor in float32."""
        ...

    def read_slice(self, name: str, dim: int, first: int, stop: int) -> Tensor:
        """Return some of a tensor's rows or columns in float32."""
        ...

    def read_matrix(self, name: str, dim: int, first: int, stop: int) -> Matrix:
        """Return some of a linear layer's rows or columns, as they are to be held."""
        ...


class SplitModel:
    """A rank's part of a model."""

    def __init__(
        self,
        settings: PretrainedConfig,
        config: ModelConfig,
        source: WeightSource,
        precision: str,
        group: Group,
    ) -> None:
        """Read a rank's part; it computes after `join`.

        Args:
            settings: transformers' configuration.
            config: ours of the same model.
            source: its tensors.
            precision: how linear layers and a plain embedding are held: float32, or as
                `load_frozen` holds them.
            group: the ranks of the worker.

        Raises:
            ConfigError: it does not split over so many ranks, or its numbers cannot be held so.
        """
        try:
            self.split = ModelSplit(config, group.size)
        except ValueError as error:
            raise ConfigError(f"`workers.tp` is {group.size}: {error}") from error
        if group.size > 1 and getattr(settings, "attention_dropout", None):
            raise ConfigError(
                f"`workers.tp` is {group.size}, and config.json has attention_dropout "
                f"{settings.attention_dropout}, which would depend on the ranks: set the latter "
                "to 0"
            )
        self._group = group
        self._precision = precision
        self._source = source
        with ONE_AT_A_TIME, init_empty_weights(include_buffers=False):
            self.model: PreTrainedModel = AutoModelForCausalLM.from_config(
                settings, dtype=torch.float32
            )
        self.model.requires_grad_(requires_grad=False)
        self._elsewhere: list[str] = []
        """Weights of which only other ranks hold a part."""
        self._fill(is_tied=config.tied_head)
        prepared(self.model)

    @classmethod
    def load(cls, directory: Path, precision: str, group: Group) -> "SplitModel":
        """Read a rank's part of a checkpoint.

        Raises:
            ConfigError: generation would reject it, or as the constructor.
        """
        files = read_checkpoint(directory)
        source = CheckpointSource(directory, precision, _CPU, tensors=files.tensors)
        return cls(transformers_config(directory), files.config, source, precision, group)

    def trained(self) -> dict[str, nn.Parameter]:
        """Make all weights learn, and return this rank's part of each, by name; float32 only."""
        self.model.requires_grad_(requires_grad=True)
        weights = dict(self.model.named_parameters())
        for name in self._elsewhere:
            weights[name] = nn.Parameter(torch.empty(0))
        return weights

    def join(self) -> None:
        """Exchange what enters and leaves each block; call it once adapters are in place."""
        group, shard = self._group, self.split.heads[self._group.rank]
        for name, module in self.model.named_modules():
            last = name.rpartition(".")[2]
            if last in _BLOCKS:
                module.register_forward_pre_hook(self._enter_block, with_kwargs=True)
            if last == "self_attn":
                module.num_key_value_groups = shard.num_query // shard.num_kv
            if self.split.splits_inputs(name):
                module.register_forward_hook(lambda _, __, part: left(part, group))
            if isinstance(module, LoraLinear) and self.split.splits_inputs(name):
                module.inputs = self._inputs_of(name)
        head = self.model.get_output_embeddings()
        rows = self.split.of("lm_head.weight").ranges
        head.register_forward_pre_hook(lambda _, inputs: (entered(inputs[0], group), *inputs[1:]))
        head.register_forward_hook(lambda _, __, part: joined(part, group, rows))

    def _fill(self, *, is_tied: bool) -> None:
        model = self.model
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and not (module is head and is_tied):
                model.set_submodule(name, self._linear(name, module))
        embedded = next(name for name, module in model.named_modules() if module is embedding)
        held = self._embedding(embedded, embedding)
        model.set_input_embeddings(held)
        if is_tied:
            tied: nn.Module = FrozenLinear(held.weight)
            if self._precision == "float32":
                tied = _linear_of(held.weight, None)
            model.set_output_embeddings(tied)
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | FrozenLinear | SplitEmbedding):
                continue
            for last in dict(module.named_parameters(recurse=False)):  # norms, which all ranks have
                whole = nn.Parameter(self._source.read(f"{name}.{last}"), requires_grad=False)
                setattr(module, last, whole)

    def _linear(self, name: str, layer: nn.Linear) -> nn.Module:
        matrix = self._part(f"{name}.weight")
        bias = None
        if layer.bias is not None:
            first, stop = self.split.of(f"{name}.bias").ranges[self._group.rank]
            if first < stop:
                bias = self._source.read_slice(f"{name}.bias", 0, first, stop)
            else:
                self._elsewhere.append(f"{name}.bias")
        if self._precision != "float32":
            return FrozenLinear(matrix, bias)
        assert isinstance(matrix, Tensor)
        weight = nn.Parameter(matrix, requires_grad=False)
        return _linear_of(weight, None if bias is None else nn.Parameter(bias, requires_grad=False))

    def _embedding(self, name: str, embedding: nn.Module) -> SplitEmbedding:
        rows = self.split.of(f"{name}.weight").ranges[self._group.rank]
        weight = self._source.read_slice(f"{name}.weight", 0, *rows)
        if self._precision != "float32" and type(embedding) is nn.Embedding:
            weight = weight.bfloat16()
        scale = getattr(embedding, "embed_scale", None)
        return SplitEmbedding(
            nn.Parameter(weight, requires_grad=False),
            rows,
            self._group,
            scale=None if scale is None else float(scale),
            padding_id=getattr(embedding, "padding_idx", None),
        )

    def _part(self, name: str) -> Matrix:
        split = self.split.of(name)
        assert split.dim is not None
        return self._source.read_matrix(name, split.dim, *split.ranges[self._group.rank])

    def _enter_block(
        self,
        _: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (entered(args[0], self._group), *args[1:]), kwargs
        states = entered(kwargs["hidden_states"], self._group)
        return args, kwargs | {"hidden_states": states}

    def _inputs_of(self, layer: str) -> SplitInputs:
        ranges = self.split.of(f"{layer}.weight").ranges
        return SplitInputs(
            first=ranges[self._group.rank][0],
            num_inputs=max(stop for _, stop in ranges),
            group=self._group,
        )


def _linear_of(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer
