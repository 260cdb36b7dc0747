"""Checkpoints of transformers load as they are, and unusable ones are refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from parallel.group import SoloGroup
from parallel.model.batch import SequenceRows
from parallel.model.cache import SoleCache
from parallel.model.transformer import Decoder
from runtime.errors import ConfigError
from runtime.weights import (
    CheckpointSource,
    check_checkpoint,
    load_decoder,
    read_model_config,
    weight_files,
)
from tests.models import reference_model, smollm2_directory
from tests.parallel.model.tiny import (
    CPU,
    RankThread,
    TinyModel,
    on_ranks,
    score,
    tiny_model,
    tokens,
)

PROMPT = tokens(20)


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return tiny_model()


@pytest.fixture(scope="module")
def saved(model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved")
    model.reference.save_pretrained(directory)
    return directory


@pytest.fixture
def checkpoint(saved: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))


def load(directory: Path, layers: tuple[int, ...] | None = None) -> Decoder:
    return load_decoder(directory, SoloGroup(), dtype=torch.float32, device=CPU, layers=layers)


def test_a_saved_model_gives_the_logits_of_transformers(saved: Path, model: TinyModel) -> None:
    expected = model.expected(PROMPT)
    torch.testing.assert_close(score(load(saved), PROMPT), expected, atol=1e-4, rtol=0)


def test_a_model_in_several_files_loads_alike(model: TinyModel, tmp_path: Path) -> None:
    model.reference.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(set(weight_files(tmp_path).values())) > 1
    check_checkpoint(tmp_path)
    expected = model.expected(PROMPT)
    torch.testing.assert_close(score(load(tmp_path), PROMPT), expected, atol=1e-4, rtol=0)


def test_every_rank_loads_its_part(saved: Path, model: TinyModel) -> None:
    def one(group: RankThread) -> Tensor:
        return score(load_decoder(saved, group, dtype=torch.float32, device=CPU), PROMPT)

    logits = torch.cat(on_ranks(2, one), dim=1)
    torch.testing.assert_close(logits, model.expected(PROMPT), atol=1e-4, rtol=0)


def test_layers_can_be_left_out(saved: Path) -> None:
    assert load(saved, (0, 2)).stack.num_cached_layers == 2


def test_weights_take_the_dtype_asked_for(saved: Path) -> None:
    source = CheckpointSource(saved, torch.bfloat16, CPU)
    assert source.read("model.norm.weight").dtype == torch.bfloat16
    assert source.read_slice("lm_head.weight", 0, 3, 10).shape == (7, 36)
    assert source.read_slice("lm_head.weight", 1, 3, 10).shape == (101, 7)


def test_more_ranks_than_heads_are_refused(saved: Path) -> None:
    group = RankThread.__new__(RankThread)
    group.rank, group.size = 0, 10
    with pytest.raises(ConfigError, match="at most 9 ranks, not over 10"):
        load_decoder(saved, group, dtype=torch.float32, device=CPU)


def edit_config(directory: Path, **changes: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_weights(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    file = directory / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


def cut_file(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def write(name: str, text: str | bytes) -> Callable[[Path], None]:
    def act(directory: Path) -> None:
        data = text.encode() if isinstance(text, str) else text
        (directory / name).write_bytes(data)

    return act


def without_lm_head(directory: Path) -> None:
    edit_weights(directory, lambda weights: weights.pop("lm_head.weight"))


def with_another_norm(directory: Path) -> None:
    edit_weights(directory, lambda w: w.update({"model.norm.weight": torch.ones(35)}))


def with_index(text: str) -> Callable[[Path], None]:
    def act(directory: Path) -> None:
        (directory / "model.safetensors").unlink()
        (directory / "model.safetensors.index.json").write_text(text)

    return act


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "has no config.json"),
    "config no JSON": (write("config.json", "{oops"), r"config.json is not valid JSON"),
    "config no UTF-8": (write("config.json", b"\xff\xfe"), "config.json"),
    "config a list": (write("config.json", "[1]"), "config.json holds no JSON object"),
    "architecture": (
        lambda d: edit_config(d, model_type="mamba"),
        "config.json: architecture 'mamba' is not supported; these are: llama, mistral, qwen2",
    ),
    "no weights": (
        lambda d: (d / "model.safetensors").unlink(),
        "has neither model.safetensors nor model.safetensors.index.json",
    ),
    "truncated": (cut_file, r"model.safetensors is truncated or corrupt .*: download it again"),
    "empty": (write("model.safetensors", b""), "truncated or corrupt"),
    "garbage": (write("model.safetensors", b"\xff" * 999), "truncated or corrupt"),
    "missing tensor": (without_lm_head, "has no tensor 'lm_head.weight'"),
    "wrong shape": (
        with_another_norm,
        r"model.norm.weight of .* has the shape \[35\], its config.json asks for \[36\]",
    ),
    "smaller config": (
        lambda d: edit_config(d, intermediate_size=32),
        r"gate_proj.weight of .* has the shape \[52, 36\], .* asks for \[32, 36\]",
    ),
    "index no JSON": (with_index("{"), "is no index of safetensors"),
    "index without map": (with_index("{}"), "is no index of safetensors"),
    "index a list": (with_index("[]"), "is no index of safetensors"),
    "index of numbers": (with_index('{"weight_map": {"a": 1}}'), "is no index of safetensors"),
    "missing part": (
        with_index('{"weight_map": {"a": "part-1.safetensors"}}'),
        "part-1.safetensors is missing",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_before_anything_is_read(name: str, checkpoint: Path) -> None:
    damage, message = DAMAGES[name]
    damage(checkpoint)
    with pytest.raises(ConfigError, match=message):
        check_checkpoint(checkpoint)
    with pytest.raises(ConfigError, match=message):
        load(checkpoint)


def test_a_whole_checkpoint_passes_the_check(saved: Path, model: TinyModel) -> None:
    assert check_checkpoint(saved) == model.config == read_model_config(saved)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere has no config.json"):
        read_model_config(tmp_path / "nowhere")


@pytest.mark.slow
def test_smollm2_gives_the_logits_of_transformers() -> None:
    directory = smollm2_directory()
    prompt = tokens(48, vocab_size=49152)
    decoder = load(directory)
    cache = SoleCache(num_layers=30, num_kv_heads=3, head_dim=64, num_pages=4, page_size=16)
    cache.open(0, 48)
    with torch.inference_mode():
        expected = reference_model(directory)(torch.tensor([prompt])).logits[0]
        rows = [
            SequenceRows(slot=0, start=0, token_ids=prompt[:40], num_logits=40),
            SequenceRows(slot=0, start=40, token_ids=prompt[40:47], num_logits=7),
            SequenceRows(slot=0, start=47, token_ids=prompt[47:], num_logits=1),
        ]
        logits = torch.cat([decoder.forward([row], cache) for row in rows])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
