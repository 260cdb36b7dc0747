"""The driver's view of the trained weights: names, shapes and first values, without the model."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from runtime.errors import ConfigError
from runtime.training.adapters.weight_layout import WeightLayout
from runtime.training.job.job_config import LoraConfig, TrainConfig
from runtime.training.trainable import Trainable
from tests.support.tiny_checkpoint import save_tiny_checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def test_a_vector_is_split_into_its_weights_without_a_copy() -> None:
    layout = WeightLayout(shapes={"a": (2, 3), "b": (), "c": (1,)}, has_tied_head=False)
    vector = np.arange(8, dtype=np.float32)
    parts = layout.split(vector)
    assert layout.size == 8
    assert {name: part.shape for name, part in parts.items()} == layout.shapes
    assert np.array_equal(np.concatenate([part.ravel() for part in parts.values()]), vector)
    assert all(np.shares_memory(part, vector) for part in parts.values())


@pytest.mark.parametrize("seed", [0, 7])
def test_an_adapter_starts_without_the_model_s_weights_at_the_same_bits(
    tiny: Path, seed: int
) -> None:
    config = TrainConfig(seed=seed, lora=LoraConfig(targets=["q_proj", "down_proj"]))
    whole = Trainable.load(tiny, config).start_point
    alone = Trainable.adapter(tiny, config)
    assert alone.start_point.layout == whole.layout
    assert np.array_equal(alone.start_point.parameters, whole.parameters)
    assert next(alone.model.get_input_embeddings().parameters()).is_meta


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_layout_names_the_values_that_training_sets(
    tiny: Path, method: Literal["lora", "full"]
) -> None:
    trainable = Trainable.load(tiny, TrainConfig(method=method))
    start = trainable.start_point
    changed = np.arange(start.layout.size, dtype=np.float32)
    trainable.set(changed)
    parts = start.layout.split(changed)
    assert parts.keys() == trainable.weights.keys()
    for name, weight in trainable.weights.items():
        assert np.array_equal(parts[name], weight.detach().numpy())


def test_weights_that_do_not_decay_are_found_by_parts_of_their_names() -> None:
    shapes: dict[str, tuple[int, ...]] = {"a.norm.weight": (3,), "b.bias": (2,), "c.weight": (4, 2)}
    layout = WeightLayout(shapes=shapes, has_tied_head=False)
    assert layout.undecayed([]) == ()
    assert layout.undecayed(["norm", r"\.bias$"]) == (slice(0, 3), slice(3, 5))
    assert layout.undecayed(["weight"]) == (slice(0, 3), slice(5, 13))
    with pytest.raises(
        ConfigError, match=r"'layer_norm', which is in the name of no trained weigh"
    ):
        layout.undecayed(["norm", "layer_norm"])
