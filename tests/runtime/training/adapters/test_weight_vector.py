"""A vector of the whole model is the same whether its weights are split over ranks or not."""

import numpy as np
import torch
from torch import nn

from parallel.training.adamw import Vector
from parallel.training.tensor_split import ModelSplit
from runtime.training.adapters.weight_vector import SplitWeights, WholeWeights
from tests.support.tiny_transformer import tiny_model
from tests.support.training_ranks import members, on_all

CONFIG = tiny_model().config
LAYER = "model.layers.0"
SHAPES = {
    "model.embed_tokens.weight": (101, 36),
    f"{LAYER}.input_layernorm.weight": (36,),
    f"{LAYER}.mlp.down_proj.lora_A": (2, 52),
    f"{LAYER}.mlp.down_proj.lora_B": (36, 2),
    f"{LAYER}.self_attn.k_proj.lora_A": (2, 36),
    f"{LAYER}.self_attn.k_proj.lora_B": (24, 2),
    f"{LAYER}.self_attn.o_proj.bias": (36,),
}
SIZE = 4
"""More ranks than kv heads: two of them hold the same one."""


def vector(seed: int) -> Vector:
    size = sum(int(np.prod(shape)) for shape in SHAPES.values())
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def split_weights() -> tuple[list[SplitWeights], list[dict[str, nn.Parameter]]]:
    split, group = ModelSplit(CONFIG, SIZE), members(SIZE)
    parts = [
        {
            name: nn.Parameter(torch.zeros(split.of(name).part_shape(shape, rank)))
            for name, shape in SHAPES.items()
        }
        for rank in range(SIZE)
    ]
    weights = [SplitWeights(p, split, one) for p, one in zip(parts, group, strict=True)]
    return weights, parts


def test_what_is_assigned_to_the_ranks_is_what_they_return() -> None:
    weights, _ = split_weights()
    whole, group = vector(0), members(SIZE)
    whole.setflags(write=False)  # as shared memory is

    def run(rank: int) -> Vector:
        weights[rank].assign(whole)
        return weights[rank].values()

    found = on_all(group, run)
    assert np.array_equal(found[0], whole)
    assert all(len(other) == 0 for other in found[1:])
    assert weights[1].shapes == dict(sorted(SHAPES.items()))


def test_gradients_of_ranks_add_up_where_they_are_parts_of_a_sum() -> None:
    weights, parts = split_weights()
    split = ModelSplit(CONFIG, SIZE)
    wanted = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    for rank, mine in enumerate(parts):
        for number, (name, weight) in enumerate(mine.items()):
            one = split.of(name)
            is_same = one.dim is None and not one.is_summed
            draw = torch.Generator().manual_seed(number if is_same else 100 * rank + number)
            weight.grad = torch.randn(weight.shape, generator=draw)
            if not is_same or rank == 0:
                wanted[name][one.index(rank)] += weight.grad
    parts[2][f"{LAYER}.self_attn.k_proj.lora_A"].grad = None  # a rank without a gradient has 0
    drawn = torch.randn((2, 36), generator=torch.Generator().manual_seed(204))
    wanted[f"{LAYER}.self_attn.k_proj.lora_A"] -= drawn
    found = on_all(members(SIZE), lambda rank: weights[rank].gradients())
    flat = torch.cat([wanted[name].reshape(-1) for name in sorted(wanted)]).numpy()
    np.testing.assert_allclose(found[0], flat, atol=1e-6)


def test_weights_of_one_rank_are_one_after_the_other_by_name() -> None:
    pair = {"b": nn.Parameter(torch.ones(2)), "a": nn.Parameter(torch.zeros(1, 3))}
    weights = WholeWeights(pair)
    assert weights.shapes == {"a": (1, 3), "b": (2,)}
    assert weights.values().tolist() == [0, 0, 0, 1, 1]
    weights.assign(np.arange(5, dtype=np.float32))
    assert pair["b"].tolist() == [3, 4]
    pair["a"].grad = torch.full((1, 3), 2.0)
    assert weights.gradients().tolist() == [2, 2, 2, 0, 0]
