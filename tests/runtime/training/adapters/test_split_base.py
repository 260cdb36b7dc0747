"""A model that is split over ranks has the gradients and losses of the model on one rank."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from parallel.training.adamw import Vector
from runtime.errors import ConfigError
from runtime.training.adapters.base_model import has_tied_head
from runtime.training.job.job_config import DataConfig, LoraConfig, TrainConfig
from runtime.training.trainable import Trainable
from runtime.training.training_data import Sample
from tests.support.frozen_models import num_bytes
from tests.support.reference_models import make_model, save
from tests.support.training_ranks import RankedTrainable

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SIZES: dict[str, object] = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
}
LORA = LoraConfig(targets=[*TARGETS, "lm_head"], rank=4)
PACKED = DataConfig(batching="packed")
CLOSE = 2e-6
"""Largest difference, in units of the largest number."""


def samples() -> list[Sample]:
    draw = np.random.default_rng(3)
    sizes = (9, 4, 14)
    return [Sample(tuple(draw.integers(1, 100, size).tolist()), size - 3) for size in sizes]


def checkpoint(directory: Path, kind: str, **changes: object) -> Path:
    fields = SIZES | {"model_type": kind} | changes
    model = make_model(fields, own_head=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter *= 0.3  # as in trained models; larger ones blow rounding errors up
    save(model, fields, directory, "safetensors")
    return directory


def start(directory: Path, config: TrainConfig) -> Vector:
    vector = Trainable.load(directory, config).get()
    draw = np.random.default_rng(1)  # so that no B is 0
    return vector + 0.05 * draw.standard_normal(vector.size).astype(np.float32)


def close(found: Vector, wanted: Vector) -> None:
    assert found.shape == wanted.shape
    assert np.abs(wanted).max() > 0.01
    assert np.abs(found - wanted).max() <= CLOSE * max(1.0, float(np.abs(wanted).max()))


def compare(directory: Path, config: TrainConfig, size: int) -> RankedTrainable:
    vector = start(directory, config)
    alone, split = Trainable.load(directory, config), RankedTrainable(directory, config, size)
    alone.set(vector)
    split.call(lambda one: one.set(vector))
    wanted, wanted_loss, num_tokens = alone.gradient(samples())
    results = split.call(lambda one: one.gradient(samples()))
    found, loss, found_tokens = results[0]
    close(found, wanted)
    assert {other[1] for other in results} == {loss}  # all ranks have the same bits
    assert loss == pytest.approx(wanted_loss, rel=1e-6)
    assert found_tokens == num_tokens
    likelihoods = split.call(lambda one: one.log_likelihoods(samples()))
    np.testing.assert_allclose(likelihoods[0], alone.log_likelihoods(samples()), rtol=1e-5)
    assert likelihoods[0] == likelihoods[-1]
    return split


@pytest.mark.parametrize(
    ("kind", "changes", "size"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}, 2),
        ("llama", {"tie_word_embeddings": True}, 4),  # two ranks share each kv head
        ("mistral", {"sliding_window": 5}, 3),
        ("qwen2", {"pad_token_id": 7}, 2),
        ("qwen3", {}, 2),
        ("gemma3_text", {"sliding_window": 5, "final_logit_softcapping": 2.0}, 2),
    ],
)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_gradients_and_losses_are_those_of_one_rank(
    tmp_path: Path,
    kind: str,
    changes: dict[str, object],
    size: int,
    method: Literal["lora", "full"],
) -> None:
    directory = checkpoint(tmp_path, kind, **changes)
    compare(directory, TrainConfig(method=method, lora=LORA), size)


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(base_precision="bfloat16"),
        TrainConfig(base_precision="int8", lora=replace(LORA, dora=True)),
        TrainConfig(base_precision="int4", data=PACKED, lora=replace(LORA, rank_stabilized=True)),
        TrainConfig(data=PACKED, lora=replace(LORA, dora=True), gradient_checkpointing=True),
        TrainConfig(method="full", data=PACKED, gradient_checkpointing=True),
    ],
    ids=["bfloat16", "int8, DoRA", "int4, packed", "DoRA, recomputed", "full, recomputed"],
)
@pytest.mark.parametrize("tied", [False, True])
def test_the_options_of_a_job_hold_on_a_group(
    tmp_path: Path, config: TrainConfig, tied: bool
) -> None:
    directory = checkpoint(tmp_path, "llama", tie_word_embeddings=tied)
    compare(directory, config, 2)


def test_bfloat16_products_agree_as_far_as_their_precision_does(tmp_path: Path) -> None:
    config = TrainConfig(precision="bfloat16", lora=LORA)
    directory = checkpoint(tmp_path, "llama")
    vector = start(directory, config)
    alone, split = Trainable.load(directory, config), RankedTrainable(directory, config, 2)
    alone.set(vector)
    split.call(lambda one: one.set(vector))
    wanted, _, _ = alone.gradient(samples())
    found, _, _ = split.call(lambda one: one.gradient(samples()))[0]
    cosine = found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted)
    assert cosine > 0.999


@pytest.mark.parametrize("tied", [False, True])
def test_a_rank_holds_its_part_of_the_model_alone(tmp_path: Path, tied: bool) -> None:
    directory = checkpoint(tmp_path, "llama", tie_word_embeddings=tied, intermediate_size=128)
    config = TrainConfig(method="full")
    alone, split = Trainable.load(directory, config), RankedTrainable(directory, config, 2)
    each: Sequence[int] = [num_bytes(rank.model) for rank in split.ranks]
    assert max(each) <= 0.52 * num_bytes(alone.model)
    assert has_tied_head(split.ranks[1].model) == tied
    points = split.call(lambda one: one.start_point)
    assert points[0].layout == alone.start_point.layout
    assert np.array_equal(points[0].parameters, alone.get())


def test_a_model_that_does_not_split_is_rejected(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path, "llama")
    with pytest.raises(ConfigError, match=r"`workers.tp` is 5: 4 query heads split over at most 4"):
        RankedTrainable(directory, TrainConfig(), 5)
    other = checkpoint(tmp_path, "llama", attention_dropout=0.1)
    with pytest.raises(ConfigError, match=r"attention_dropout 0.1, .*: set the latter to 0"):
        RankedTrainable(other, TrainConfig(), 2)


def test_preferences_of_ranks_are_those_of_one(tmp_path: Path) -> None:
    config = TrainConfig(objective="dpo", lora=LORA)
    directory = checkpoint(tmp_path, "llama")
    pairs = [
        replace(one, rejected=replace(one, token_ids=(*one.token_ids[: one.num_prompt], 7, 8)))
        for one in samples()
    ]
    vector = start(directory, config)
    alone, split = Trainable.load(directory, config), RankedTrainable(directory, config, 2)
    alone.set(vector)
    split.call(lambda one: one.set(vector))
    wanted, wanted_loss, num_pairs = alone.gradient(pairs)
    results = split.call(lambda one: one.gradient(pairs))
    close(results[0][0], wanted)
    assert len({loss for _, loss, _ in results}) == 1
    assert results[0][1] == pytest.approx(wanted_loss, rel=1e-6)
    assert results[0][2] == num_pairs == len(pairs)
    assert abs(wanted_loss - num_pairs * np.log(2)) > 0.01  # it is not the reference
