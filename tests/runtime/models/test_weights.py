"""Checkpoints of transformers load as they are, and unusable ones are rejected by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from parallel.batch import SequenceRows
from parallel.group import SoloGroup
from parallel.model.cache import SoleCache
from parallel.model.transformer import Decoder
from runtime.errors import ConfigError
from runtime.models.checkpoint_files import read_checkpoint, read_model_config
from runtime.models.weights import load_decoder
from runtime.weights.checkpoint_source import CheckpointSource
from tests.support.models import reference_model, smollm2_directory
from tests.support.tiny_transformer import (
    CPU,
    RankThread,
    TinyModel,
    on_ranks,
    score,
    tiny_model,
    tokens,
)

PROMPT = tokens(20)
INDEX = "model.safetensors.index.json"


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
    return load_decoder(directory, SoloGroup(), weights="float32", device=CPU, layers=layers)


def test_a_saved_model_gives_the_logits_of_transformers(saved: Path, model: TinyModel) -> None:
    expected = model.expected(PROMPT)
    torch.testing.assert_close(score(load(saved), PROMPT), expected, atol=1e-4, rtol=0)


def test_a_model_in_several_files_loads_alike(model: TinyModel, tmp_path: Path) -> None:
    model.reference.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len({entry.file for entry in read_checkpoint(tmp_path).tensors.values()}) > 1
    expected = model.expected(PROMPT)
    torch.testing.assert_close(score(load(tmp_path), PROMPT), expected, atol=1e-4, rtol=0)


def test_every_rank_loads_its_part(saved: Path, model: TinyModel) -> None:
    def one(group: RankThread) -> Tensor:
        return score(load_decoder(saved, group, weights="float32", device=CPU), PROMPT)

    logits = torch.cat(on_ranks(2, one), dim=1)
    torch.testing.assert_close(logits, model.expected(PROMPT), atol=1e-4, rtol=0)


def test_layers_can_be_left_out(saved: Path) -> None:
    assert load(saved, (0, 2)).stack.num_cached_layers == 2


def test_matrices_take_the_format_asked_for_and_numbers_are_float32(saved: Path) -> None:
    source = CheckpointSource(saved, "bfloat16", CPU)
    assert source.read("model.norm.weight").dtype == torch.float32
    assert source.read_slice("lm_head.weight", 0, 3, 10).shape == (7, 36)
    assert source.read_slice("lm_head.weight", 1, 3, 10).shape == (101, 7)
    matrix = source.read_matrix("lm_head.weight", 0, 3, 10)
    assert isinstance(matrix, Tensor)
    assert (matrix.dtype, matrix.shape) == (torch.bfloat16, (7, 36))


def test_more_ranks_than_heads_are_rejected(saved: Path) -> None:
    group = RankThread.__new__(RankThread)
    group.rank, group.size = 0, 10
    with pytest.raises(ConfigError, match="at most 9 ranks, not over 10"):
        load_decoder(saved, group, weights="float32", device=CPU)


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


def write_index(directory: Path, **changes: str | None) -> None:
    """Write an index of the single file, with changes; None leaves a tensor out."""
    listed = dict.fromkeys(load_file(directory / "model.safetensors"), "model.safetensors")
    changed = {k: v for k, v in (listed | changes).items() if v is not None}
    (directory / INDEX).write_text(json.dumps({"weight_map": changed}))


def in_two_parts(directory: Path) -> None:
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    parts = dict.fromkeys(weights, "part-1.safetensors") | {
        "model.norm.weight": "part-2.safetensors"
    }
    save_file(weights, directory / "part-1.safetensors")
    save_file({"model.norm.weight": torch.ones(36)}, directory / "part-2.safetensors")
    (directory / INDEX).write_text(json.dumps({"weight_map": parts}))


def with_another_model(directory: Path) -> None:
    (directory / INDEX).write_text(json.dumps({"weight_map": {"a": "part-1.safetensors"}}))


def add(name: str, tensor: Tensor) -> Callable[[Path], None]:
    return lambda directory: edit_weights(directory, lambda w: w.update({name: tensor}))


def recast(name: str, dtype: torch.dtype) -> Callable[[Path], None]:
    return lambda d: edit_weights(d, lambda w: w.update({name: w[name].to(dtype)}))


def with_float8(directory: Path) -> None:
    name = "model.layers.0.mlp.gate_proj.weight"
    recast(name, torch.float8_e4m3fn)(directory)
    add(f"{name}_scale", torch.ones(1))(directory)


def with_int8(directory: Path) -> None:
    name = "model.layers.0.mlp.gate_proj.weight"
    recast(name, torch.int8)(directory)
    add(f"{name}_scale", torch.ones(1))(directory)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "has no config.json"),
    "config no JSON": (write("config.json", "{oops"), r"config.json: not JSON"),
    "config no UTF-8": (write("config.json", b"\xff\xfe"), "config.json"),
    "config a list": (write("config.json", "[1]"), "config.json: expected a JSON object"),
    "architecture": (
        lambda d: edit_config(d, model_type="mamba"),
        "config.json: architecture 'mamba' is not supported; these are: ",
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
        r"model.norm.weight of .* has the shape \[35\], its configuration asks for \[36\]",
    ),
    "smaller config": (
        lambda d: edit_config(d, intermediate_size=32),
        r"gate_proj.weight of .* has the shape \[52, 36\], .* asks for \[32, 36\]",
    ),
    "index no JSON": (with_index("{"), "index.json: not JSON"),
    "index without map": (with_index("{}"), "is not an index of safetensors"),
    "index a list": (with_index("[]"), "index.json: expected a JSON object"),
    "index of numbers": (with_index('{"weight_map": {"a": 1}}'), "is not an index of safetensors"),
    "missing part": (
        with_index('{"weight_map": {"a": "part-1.safetensors"}}'),
        "part-1.safetensors is missing",
    ),
    "part elsewhere": (
        with_index('{"weight_map": {"a": "../part-1.safetensors"}}'),
        "is not an index of safetensors: it names .*../part-1",
    ),
    "index of nothing": (with_index('{"weight_map": {}}'), "it names no file"),
    "index lists too much": (
        lambda d: write_index(d, **{"model.extra.weight": "model.safetensors"}),
        "lists model.extra.weight in model.safetensors, which does not contain it",
    ),
    "index lists too little": (
        lambda d: write_index(d, **{"model.norm.weight": None}),
        "holds model.norm.weight, which model.safetensors.index.json lists in no file",
    ),
    "a tensor in two parts": (in_two_parts, "model.norm.weight, which .* lists in part-2"),
    "another model beside the parts": (
        with_another_model,
        "has model.safetensors beside model.safetensors.index.json, which names other files",
    ),
    "a layer too many": (
        lambda d: edit_config(d, num_hidden_layers=2),
        "has the tensor model.layers.2.*, which the model .* does not have",
    ),
    "a bias that nothing reads": (
        add("model.layers.0.self_attn.q_proj.bias", torch.zeros(72)),
        "has the tensor model.layers.0.self_attn.q_proj.bias",
    ),
    "a norm of another family": (
        add("model.layers.1.self_attn.q_norm.weight", torch.ones(8)),
        "has the tensor model.layers.1.self_attn.q_norm.weight",
    ),
    "float8 with scales": (with_float8, "model.layers.0.mlp.gate_proj.weight"),
    "int8 with scales": (with_int8, "model.layers.0.mlp.gate_proj.weight"),
    "float8 without scales": (
        recast("model.layers.0.mlp.up_proj.weight", torch.float8_e5m2),
        "stores model.layers.0.mlp.up_proj.weight as F8_E5M2, which is not supported",
    ),
    "scales beside plain weights": (
        add("model.layers.0.mlp.up_proj.weight_scale_inv", torch.ones(1)),
        "weight_scale_inv .*as quantized weights do",
    ),
    "bitsandbytes": (
        add("model.layers.0.mlp.up_proj.weight.absmax", torch.ones(3)),
        "weight.absmax .*as quantized weights do",
    ),
    "gptq": (
        add("model.layers.0.mlp.up_proj.qweight", torch.ones(3, 3, dtype=torch.int32)),
        "up_proj.qweight .*as quantized weights do",
    ),
    "doubles": (recast("lm_head.weight", torch.float64), "stores lm_head.weight as F64"),
    "an adapter": (
        write("adapter_config.json", "{}"),
        r"holds an adapter \(adapter_config.json\), not a model",
    ),
    "nested too deeply": (write("config.json", "[" * 99999), "config.json: it nests too deeply"),
    "a number too long": (
        write("config.json", '{"vocab_size": ' + "9" * 5000 + "}"),
        "config.json: a number has 5000 digits",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_before_anything_is_read(name: str, checkpoint: Path) -> None:
    damage, message = DAMAGES[name]
    damage(checkpoint)
    with pytest.raises(ConfigError, match=message):
        read_checkpoint(checkpoint)
    with pytest.raises(ConfigError, match=message):
        load(checkpoint)


@pytest.mark.parametrize("is_equal", [False, True])
def test_a_head_of_its_own_counts_where_the_configuration_says_tied(
    is_equal: bool, checkpoint: Path
) -> None:
    edit_config(checkpoint, tie_word_embeddings=True)
    if is_equal:
        edit_weights(
            checkpoint, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"] + 0})
        )
    reference = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.inference_mode():
        expected = reference(torch.tensor([PROMPT])).logits[0]
    torch.testing.assert_close(score(load(checkpoint), PROMPT), expected, atol=1e-4, rtol=0)


def test_tensors_that_nothing_reads_are_skipped(checkpoint: Path, model: TinyModel) -> None:
    add("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4))(checkpoint)
    add("model.rotary_emb.inv_freq", torch.ones(4))(checkpoint)
    expected = model.expected(PROMPT)
    torch.testing.assert_close(score(load(checkpoint), PROMPT), expected, atol=1e-4, rtol=0)


def test_an_index_of_a_single_file_is_read(checkpoint: Path) -> None:
    write_index(checkpoint)
    assert len(read_checkpoint(checkpoint).tensors) == 30


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_rejected_by_name(value: float, checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda w: w["model.layers.1.mlp.up_proj.weight"][3].fill_(value))
    with pytest.raises(ConfigError, match=r"layers.1.mlp.up_proj.weight in .* are not finite"):
        load(checkpoint)


def test_a_weight_beyond_float16_names_the_dtype(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda w: w["lm_head.weight"][3].fill_(7e4))
    CheckpointSource(checkpoint, "bfloat16", CPU).read_matrix("lm_head.weight", 0, 0, 101)
    with pytest.raises(ConfigError, match=r"lm_head.weight .* holds 7e\+04, .* not fit float16"):
        CheckpointSource(checkpoint, "float16", CPU).read_matrix("lm_head.weight", 0, 0, 101)


def test_sums_that_overflow_are_no_damage(checkpoint: Path) -> None:
    edit_weights(checkpoint, lambda w: w["lm_head.weight"].fill_(3e38))
    load(checkpoint)


def test_a_whole_checkpoint_passes_the_check(saved: Path, model: TinyModel) -> None:
    assert read_checkpoint(saved).config == model.config == read_model_config(saved)


def test_a_missing_directory_is_rejected(tmp_path: Path) -> None:
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
