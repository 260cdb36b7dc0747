"""The parts of a model's tensors cover each of them, and say whose gradients count."""

import itertools
from dataclasses import replace

import pytest
import torch

from parallel.model.model_config import ModelConfig
from parallel.model.shapes import tensor_shapes
from parallel.training.tensor_split import ModelSplit
from tests.support.tiny_transformer import tiny_model

LAYER = "model.layers.1"


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return replace(tiny_model("qwen3").config, qkv_bias=True, output_bias=True, mlp_bias=True)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_parts_of_a_tensor_cover_it(config: ModelConfig, size: int) -> None:
    split = ModelSplit(config, size)
    for name, shape in tensor_shapes(config).items():
        one = split.of(name)
        covered = torch.zeros(shape)
        for rank in range(size):
            part = covered[one.index(rank)]
            assert tuple(part.shape) == one.part_shape(shape, rank), name
            assert one.whole_shape(part.shape) == shape, name
            part += 1
        assert covered.min() == (1 if one.dim is not None else size), name


def test_parts_overlap_only_where_ranks_share_a_kv_head(config: ModelConfig) -> None:
    split = ModelSplit(config, 4)  # 3 kv heads
    rows = [split.of(f"{LAYER}.self_attn.k_proj.weight").ranges[rank] for rank in range(4)]
    assert rows == [(0, 8), (0, 8), (8, 16), (16, 24)]
    rows = [split.of(f"{LAYER}.mlp.up_proj.weight").ranges[rank] for rank in range(4)]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(rows))


@pytest.mark.parametrize(
    ("name", "dim", "is_summed"),
    [
        ("self_attn.q_proj.weight", 0, True),
        ("self_attn.q_proj.lora_A", None, True),
        ("self_attn.q_proj.lora_B", 0, True),
        ("self_attn.q_proj.lora_magnitude_vector", 0, True),
        ("mlp.down_proj.weight", 1, True),
        ("mlp.down_proj.lora_A", 1, True),
        ("mlp.down_proj.lora_B", None, True),
        ("mlp.down_proj.lora_magnitude_vector", None, True),
        ("input_layernorm.weight", None, False),
        ("self_attn.q_norm.weight", None, True),
    ],
)
def test_a_tensor_is_split_where_its_layer_is(
    config: ModelConfig, name: str, dim: int | None, is_summed: bool
) -> None:
    one = ModelSplit(config, 2).of(f"{LAYER}.{name}")
    assert (one.dim, one.is_summed) == (dim, is_summed)


def test_what_is_added_to_a_sum_is_held_by_one_rank(config: ModelConfig) -> None:
    one = ModelSplit(config, 3).of(f"{LAYER}.self_attn.o_proj.bias")
    assert one.ranges == ((0, 36), (36, 36), (36, 36))


def test_more_ranks_than_heads_are_rejected(config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="9 query heads split over at most 9 ranks, not over 10"):
        ModelSplit(config, 10)
