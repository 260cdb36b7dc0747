"""A published result is compared whole: its weights, and the settings that give them a meaning."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runtime.errors import ConfigError
from runtime.training.job.job_config import LoraConfig, TrainConfig
from runtime.training.job.shared_seed_settings import SharedSeedConfig
from runtime.training.shared_seed.log_check import difference
from runtime.training.shared_seed.replay import Replayed, replay, write_result
from runtime.training.shared_seed.seed_log import SeedLog
from runtime.training.shared_seed.shared_seed_job import header_of
from tests.support.tiny_checkpoint import save_tiny_checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("base"))


def replayed_of(base: Path, folder: Path, weights: Literal["lora", "linear"]) -> Replayed:
    config = TrainConfig(
        model=str(base),
        lora=LoraConfig(rank=2, alpha=8.0),
        shared_seed=SharedSeedConfig(weights=weights),
    )
    SeedLog.create(folder / "seeds.log", header_of(config, base)).close()
    return replay(folder / "seeds.log", base)


@pytest.fixture(scope="module", params=["lora", "linear"])
def replayed(base: Path, request: pytest.FixtureRequest, tmp_path_factory: Any) -> Replayed:
    return replayed_of(base, tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def result(replayed: Replayed, tmp_path: Path) -> Path:
    out = tmp_path / "result"
    write_result(out, replayed.points, replayed.replica.theta, replayed.header, replayed.base)
    return out


def weights_file(result: Path) -> Path:
    return next(result.glob("*model.safetensors"))


def edit_weights(result: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    weights = load_file(weights_file(result))
    change(weights)
    save_file(weights, weights_file(result))


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_was_written_is_what_the_log_comes_to(result: Path, replayed: Replayed) -> None:
    assert difference(result, replayed) is None


def test_one_bit_of_any_weight_is_found(result: Path, replayed: Replayed) -> None:
    for name in load_file(weights_file(result)):  # of a whole model, those that did not learn too

        def flip(weights: dict[str, np.ndarray], name: str = name) -> None:
            weights[name].view(np.uint32).reshape(-1)[0] ^= 1

        edit_weights(result, flip)
        assert f"{name}: 1 of" in str(difference(result, replayed))
        edit_weights(result, flip)
    assert difference(result, replayed) is None


def test_other_weights_are_found(result: Path, replayed: Replayed) -> None:
    name = min(load_file(weights_file(result)))
    edit_weights(result, lambda weights: weights.update(extra=weights[name]))
    assert difference(result, replayed) == "other weights: extra"
    edit_weights(result, lambda weights: (weights.pop("extra"), weights.pop(name)))
    assert difference(result, replayed) == f"other weights: {name}"
    weights_file(result).write_bytes(b"no")
    with pytest.raises(ConfigError, match="cannot be read"):
        difference(result, replayed)


@pytest.mark.parametrize(
    "name", ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "extra.bin"]
)
def test_weights_that_a_program_may_load_instead_are_found(
    result: Path, replayed: Replayed, name: str
) -> None:
    (result / name).write_text("{}")
    assert difference(result, replayed) == (
        f"it also holds {name}, which a program may load instead"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora_alpha", 800.0),
        ("r", 4),
        ("use_rslora", True),
        ("target_modules", ["q_proj"]),
        ("alpha_pattern", {"q_proj": 1.0}),
        ("bias", "all"),
        ("layers_to_transform", [0]),
    ],
)
def test_settings_that_change_an_adapter_are_found(
    base: Path, tmp_path: Path, key: str, value: object
) -> None:
    replayed = replayed_of(base, tmp_path, "lora")
    out = tmp_path / "result"
    write_result(out, replayed.points, replayed.replica.theta, replayed.header, base)
    edit_json(out / "adapter_config.json", peft_version="0.21.2", revision=None, use_dora=False)
    assert difference(out, replayed) is None
    edit_json(out / "adapter_config.json", **{key: value})
    assert f"adapter_config.json: {key} is {value!r}, not " in str(difference(out, replayed))


def test_settings_that_change_a_model_are_found(base: Path, tmp_path: Path) -> None:
    replayed = replayed_of(base, tmp_path, "linear")
    out = tmp_path / "result"
    write_result(out, replayed.points, replayed.replica.theta, replayed.header, base)
    edit_json(out / "config.json", rms_norm_eps=0.5)
    assert "config.json: rms_norm_eps is 0.5, not " in str(difference(out, replayed))


def test_a_log_of_another_size_is_rejected(base: Path, tmp_path: Path) -> None:
    header = header_of(TrainConfig(model=str(base)), base)
    SeedLog.create(tmp_path / "odd.log", replace(header, size=header.size + 1)).close()
    with pytest.raises(ConfigError, match=rf"{header.size + 1} trained weights by its header"):
        replay(tmp_path / "odd.log", base)


def test_bytes_that_are_left_out_of_a_log_are_counted(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "seeds.log"
    SeedLog.create(file, header_of(TrainConfig(model=str(base)), base)).close()
    assert replay(file, base).num_cut_bytes == 0
    file.write_bytes(file.read_bytes() + b"\x11" * 5)
    assert replay(file, base).num_cut_bytes == 5
