"""What a chunk is said to keep is what torch keeps when it is computed."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from runtime.models.checkpoint_files import read_model_config
from runtime.training.job.job_config import DataConfig, LoraConfig, OptimizerConfig, TrainConfig
from runtime.training.planning.traced_chunk import ChunkMemory, ChunkShape, chunk_memory
from runtime.training.trainable import Trainable
from runtime.training.training_data import Sample
from tests.support.frozen_models import num_bytes
from tests.support.reference_models import make_model, save
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.training_ranks import RankedTrainable

SIZES: dict[str, object] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
LENGTHS = (40, 37, 29)
NUM_LEARNED = 5
LORA = LoraConfig(targets=["q_proj", "v_proj", "down_proj"], rank=4)


def samples(lengths: tuple[int, ...] = LENGTHS) -> list[Sample]:
    return [Sample(tuple(range(1, size + 1)), size - NUM_LEARNED) for size in lengths]


def shape_of(config: TrainConfig, lengths: tuple[int, ...] = LENGTHS) -> ChunkShape:
    learned, packed = len(lengths) * NUM_LEARNED, config.data.batching == "packed"
    if packed:
        return ChunkShape(rows=1, length=sum(lengths), num_learned=learned, is_masked=True)
    return ChunkShape(
        rows=len(lengths), length=max(lengths), num_learned=learned, is_masked=len(lengths) > 1
    )


def kept_bytes(trainable: Trainable, some: list[Sample]) -> int:
    """Return what a real forward keeps for the way back, weights left out."""
    weights = {
        tensor.untyped_storage().data_ptr()
        for tensor in (*trainable.model.parameters(), *trainable.model.buffers())
    }
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    trainable.model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = trainable.loss(some)
        found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        del loss
    return found


def planned(directory: Path, config: TrainConfig, shape: ChunkShape, tp: int = 1) -> ChunkMemory:
    return chunk_memory(directory, read_model_config(directory), config, shape, tp=tp)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), **SIZES)


CONFIGS = {
    "lora": TrainConfig(lora=LORA),
    "full": TrainConfig(method="full"),
    "packed": TrainConfig(lora=LORA, data=DataConfig(batching="packed")),
    "DoRA, dropout": TrainConfig(lora=replace(LORA, dora=True, dropout=0.1)),
    "bfloat16 products": TrainConfig(lora=LORA, precision="bfloat16"),
    "int4": TrainConfig(lora=LORA, base_precision="int4"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_activations_are_those_of_a_real_forward(tiny: Path, name: str) -> None:
    config = CONFIGS[name]
    found = planned(tiny, config, shape_of(config))
    real = kept_bytes(Trainable.load(tiny, config), samples())
    assert found.activations + found.logits / 3 == pytest.approx(real, rel=0.05)


def test_one_sample_needs_no_mask(tiny: Path) -> None:
    config = CONFIGS["lora"]
    found = planned(tiny, config, shape_of(config, (400,)))
    real = kept_bytes(Trainable.load(tiny, config), [Sample(tuple([1] * 400), 395)])
    # Without a mask, torch's attention does not repeat the keys and values of grouped queries.
    assert real <= found.activations + found.logits / 3 <= 1.2 * real
    masked = planned(tiny, config, replace(shape_of(config, (400,)), is_masked=True))
    assert masked.activations > found.activations + 4 * 4 * 400**2 - 1000


def test_families_with_layers_of_several_kinds_are_counted(tmp_path: Path) -> None:
    fields: dict[str, object] = SIZES | {"model_type": "gemma3_text", "vocab_size": 101}
    save(make_model(fields, own_head=False), fields, tmp_path, "safetensors")
    config = CONFIGS["lora"]
    found = planned(tmp_path, config, shape_of(config))
    trainable = Trainable.load(tmp_path, config)
    real = kept_bytes(trainable, samples())
    assert found.activations + found.logits / 3 == pytest.approx(real, rel=0.08)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_weights_are_those_that_a_worker_holds(
    tmp_path: Path, precision: Literal["float32", "bfloat16", "int8", "int4"], tied: bool
) -> None:
    save_tiny_checkpoint(tmp_path, tie_word_embeddings=tied, **SIZES)
    config = TrainConfig(base_precision=precision, lora=LORA)
    trainable = Trainable.load(tmp_path, config)
    trained = sum(4 * weight.numel() for weight in trainable.weights.values())
    found = planned(tmp_path, config, shape_of(config))
    assert found.weights == num_bytes(trainable.model) - trained
    assert (found.conversion == 0) == (precision == "float32")


def test_a_rank_of_a_group_holds_its_part(tiny: Path) -> None:
    config = CONFIGS["int4"]
    found = planned(tiny, config, shape_of(config), tp=2)
    split = RankedTrainable(tiny, config, 2)
    rank = split.ranks[0]
    trained = sum(4 * weight.numel() for weight in rank.weights.values())
    assert found.weights == num_bytes(rank.model) - trained
    real = split.call(lambda one: kept_bytes(one, samples()))
    assert found.activations + found.logits / 3 == pytest.approx(max(real), rel=0.08)


def test_angles_that_depend_on_the_length_are_no_obstacle(tmp_path: Path, tiny: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    save_tiny_checkpoint(tmp_path, rope_parameters=rope, **SIZES)
    config = CONFIGS["lora"]
    assert planned(tmp_path, config, shape_of(config)) == planned(tiny, config, shape_of(config))


def test_layers_that_are_computed_again_keep_their_inputs(tiny: Path) -> None:
    config = TrainConfig(lora=LORA, optimizer=OptimizerConfig(microbatch=3))
    plain = planned(tiny, config, shape_of(config))
    again = planned(tiny, replace(config, gradient_checkpointing=True), shape_of(config))
    inputs = 4 * 3 * 40 * 64 * 4
    assert inputs < again.activations < plain.activations / 2
