"""The layers of a decoder, one after the other or several at once (layer parallel).

`LayerParallelStack` computes the fuzzy forward of EasySpec (Wu et al., arXiv 2502.02493).
"""

from collections.abc import Sequence
from copy import copy

from torch import Tensor

from parallel.decoding.layer_groups import layer_groups
from parallel.group import Group, SoloGroup
from parallel.model.backend import Backend, ForwardStep
from parallel.model.layer_weights import TensorSource, read_attention, read_mlp
from parallel.model.model_config import ModelConfig
from parallel.model.sharding import head_shard


class TensorParallelStack:
    """Runs layers in order; every rank holds some heads and feed-forward columns of each."""

    def __init__(
        self,
        config: ModelConfig,
        source: TensorSource,
        layers: Sequence[int],
        group: Group,
        backend: Backend,
    ) -> None:
        """Read this rank's part of the layers; raise ValueError if there are too many ranks."""
        self.heads = head_shard(config.num_heads, config.num_kv_heads, group.size, group.rank)
        self.num_layers = len(layers)
        self._group, self._backend = group, backend
        self._layers = [
            (
                backend.attention(read_attention(config, source, i, self.heads), group),
                backend.mlp(read_mlp(config, source, i, group), group),
            )
            for i in layers
        ]
        self._run = backend.layers(self._layers, group)

    @property
    def num_cached_layers(self) -> int:
        """Layers whose keys and values this rank caches."""
        return len(self._layers)

    def keeping(self, layers: Sequence[int]) -> "TensorParallelStack":
        """Return a stack of only these of its layers, sharing its weights."""
        kept = copy(self)
        kept._layers = [self._layers[layer] for layer in layers]
        kept.num_layers = len(layers)
        kept._run = self._backend.layers(kept._layers, self._group)
        return kept

    def run(self, x_RE: Tensor, step: ForwardStep, width: int) -> Tensor:
        """Return the residual stream after all layers; the same on all ranks."""
        assert width == 1, "layers of which each rank holds a part run one after the other"
        return self._run(x_RE, step)


class LayerParallelStack:
    """Runs the attention of several layers at once: that of layer i, with its cache, is on rank
    i mod size, and all ranks share each MLP.

    With width N, the attention blocks of N consecutive layers read the same input at the same
    time; their outputs are gathered and added to the residual stream in order, each before its
    layer's MLP. Width 1 is the exact forward. Any N consecutive layers are spread as evenly over
    the ranks as possible, so every forward may have its own width. Layers before `first` always
    run one after the other.
    """

    def __init__(
        self,
        config: ModelConfig,
        source: TensorSource,
        layers: Sequence[int],
        group: Group,
        backend: Backend,
        *,
        first: int = 0,
    ) -> None:
        """Read this rank's part of the layers; raise ValueError if there are too many ranks."""
        self.heads = head_shard(config.num_heads, config.num_kv_heads, 1, 0)
        self.first = first
        if group.size > len(layers):
            raise ValueError(
                f"{len(layers)} layers split over at most {len(layers)} ranks, not {group.size}"
            )
        self.num_layers = len(layers)
        self._group = group
        alone = SoloGroup()
        self._attentions = [
            backend.attention(read_attention(config, source, layer, self.heads), alone)
            for layer in layers[group.rank :: group.size]
        ]
        self._mlps = [
            backend.mlp(read_mlp(config, source, layer, group), group) for layer in layers
        ]

    @property
    def num_cached_layers(self) -> int:
        """Layers whose keys and values this rank caches."""
        return len(self._attentions)

    def run(self, x_RE: Tensor, step: ForwardStep, width: int) -> Tensor:
        """Return the residual stream after all layers; the same on all ranks."""
        for layers in layer_groups(self.num_layers, width, self.first):
            mlps = self._mlps[layers.start : layers.stop]
            if len(layers) == 1:
                x_RE = self._attend_alone(x_RE, layers.start, step)
                x_RE = mlps[0](x_RE, layers.start, step, x_RE)
                continue
            deltas = self._attend_together(x_RE, layers, step)
            for layer, delta, mlp in zip(layers, deltas, mlps, strict=True):
                x_RE = x_RE.clone()
                x_RE[: step.num_tokens] += delta
                x_RE = mlp(x_RE, layer, step, x_RE)
        return x_RE

    def attend(self, x_RE: Tensor, step: ForwardStep) -> Tensor:
        """Return what this rank's first attention block adds, to be timed."""
        return self._attentions[0](x_RE, 0, step)

    def feed(self, x_RE: Tensor, step: ForwardStep) -> Tensor:
        """Return what the first feed-forward block adds, to be timed."""
        return self._mlps[0](x_RE, 0, step)

    def _attend_alone(self, x_RE: Tensor, layer: int, step: ForwardStep) -> Tensor:
        """Return the residual stream after one layer's attention, as its holder computes it."""
        size, rank = self._group.size, self._group.rank
        if layer % size == rank:
            out = self._attentions[layer // size](x_RE, layer // size, step, x_RE)
        else:
            out = x_RE.new_zeros(x_RE.shape)
        self._group.all_reduce(out[: step.num_tokens])
        return out

    def _attend_together(self, x_RE: Tensor, layers: range, step: ForwardStep) -> list[Tensor]:
        """Return what each layer's attention adds to the same input, [tokens, E] each."""
        size, rank = self._group.size, self._group.rank
        num_mine = -(-len(layers) // size)
        mine = x_RE.new_zeros((num_mine, step.num_tokens, x_RE.shape[1]))
        for index, layer in enumerate(layers):
            if layer % size == rank:
                delta = self._attentions[layer // size](x_RE, layer // size, step)
                mine[index // size] = delta[: step.num_tokens]
        gathered = self._group.all_gather(mine)
        return [gathered[layer % size, index // size] for index, layer in enumerate(layers)]
