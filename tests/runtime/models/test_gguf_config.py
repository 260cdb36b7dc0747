"""Metadata of GGUF files is understood key by key, or rejected by name."""

import numpy as np
import pytest

from runtime.models.gguf_config import config_of
from runtime.models.hf_config import parse_config

LLAMA: dict[str, object] = {
    "general.architecture": "llama",
    "general.type": "model",
    "general.name": "a model",
    "llama.context_length": 256,
    "llama.embedding_length": 64,
    "llama.block_count": 2,
    "llama.feed_forward_length": 96,
    "llama.attention.head_count": 8,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.vocab_size": 128,
    "tokenizer.ggml.model": "gpt2",
    "quantize.imatrix.file": "somewhere",
}
NAMES = frozenset({"token_embd.weight", "blk.0.attn_q.weight"})


def read(
    changes: dict[str, object] | None = None,
    names: frozenset[str] = NAMES,
    divisors: np.ndarray | None = None,
) -> dict[str, object]:
    return config_of(LLAMA | (changes or {}), names, vocab_size=128, rope_freqs=divisors)


def rope(**scaling: object) -> object:
    changes = {f"llama.rope.scaling.{name}": value for name, value in scaling.items()}
    return read(changes)["rope_parameters"]


def test_a_configuration_is_complete() -> None:
    config = parse_config(read())
    assert (config.num_kv_heads, config.head_dim, config.max_positions) == (8, 8, 256)
    assert config.rope.theta == 10000.0
    assert config.tied_head
    assert not parse_config(read(names=NAMES | {"output.weight"})).tied_head


def test_a_head_has_the_size_that_the_file_states() -> None:
    sizes: dict[str, object] = {
        "llama.attention.key_length": 16,
        "llama.attention.value_length": 16,
    }
    assert parse_config(read(sizes)).head_dim == 16


def test_heads_listed_by_layer_may_be_alike() -> None:
    assert parse_config(read({"llama.attention.head_count_kv": [2, 2]})).num_kv_heads == 2


@pytest.mark.parametrize(
    ("part", "has_attention", "has_mlp"),
    [("attn_q", True, False), ("attn_output", True, False), ("ffn_up", False, True)],
)
def test_biases_are_seen_by_their_tensors(part: str, has_attention: bool, has_mlp: bool) -> None:
    config = parse_config(read(names=NAMES | {f"blk.1.{part}.bias"}))
    assert (config.qkv_bias, config.mlp_bias) == (has_attention, has_mlp)


def test_rotary_settings_are_those_of_llama_cpp() -> None:
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    linear = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    yarn = linear | {"rope_type": "yarn", "original_max_position_embeddings": 256}
    assert rope() == rope(factor=1.0) == rope(type="none", factor=4.0) == plain
    assert rope(type="linear", factor=4.0, finetuned=True) == rope(factor=4.0) == linear
    assert read({"llama.rope.scale_linear": 4.0})["rope_parameters"] == linear
    assert rope(type="yarn", factor=4.0) == yarn
    own = rope(type="yarn", factor=4.0, original_context_length=64, yarn_ext_factor=1.0)
    assert own == yarn | {"original_max_position_embeddings": 64}
    assert rope(type="yarn", factor=4.0, yarn_attn_factor=1.1386294) == yarn


def test_divisors_of_one_divide_nothing() -> None:
    ones = np.ones(4, dtype=np.float32)
    assert read(divisors=ones)["rope_parameters"] == rope()


SCALING = "llama.rope.scaling."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "gemma2"}, "architecture 'gemma2' is not supported"),
        ({"general.architecture": None}, "architecture None is not supported"),
        ({"general.type": "adapter"}, "general.type is 'adapter'"),
        ({"split.count": 3}, "split.count is 3: join the parts"),
        ({"llama.block_count": None}, "block_count is None"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon is None"),
        ({"llama.attention.head_count": [8, 4]}, r"attention.head_count is \[8, 4\]"),
        ({"llama.rope.dimension_count": 4}, "rope.dimension_count is 4, but heads have 8"),
        ({"llama.attention.value_length": 16}, "attention.value_length is 16, but heads have 8"),
        ({"llama.expert_count": 8}, "llama.expert_count is 8"),
        ({"llama.attention.sliding_window": 64}, "llama.attention.sliding_window is 64"),
        ({"llama.attention.causal": False}, "llama.attention.causal is False"),
        ({"llama.attention.scale": 0.1}, "llama.attention.scale is 0.1"),
        ({"llama.logit_scale": 0.25}, "llama.logit_scale is 0.25"),
        ({"llama.final_logit_softcapping": 30.0}, "llama.final_logit_softcapping is 30.0"),
        ({"llama.some_new_key": 0}, "llama.some_new_key is 0, which may change the output"),
        ({f"{SCALING}type": "longrope"}, "type is 'longrope': none, linear and yarn"),
        ({f"{SCALING}factor": -1.0}, "factor is -1.0"),
        ({f"{SCALING}attn_factor": 1.2}, "attn_factor is 1.2: only 1 is supported"),
        (
            {f"{SCALING}type": "yarn", f"{SCALING}factor": 4.0, f"{SCALING}yarn_attn_factor": 1.0},
            "yarn_attn_factor is 1.0: only 1.13863 is supported",
        ),
        ({f"{SCALING}yarn_beta_fast": 16.0}, "yarn_beta_fast is 16.0: only 32"),
        ({f"{SCALING}yarn_log_multiplier": 0.1}, "yarn_log_multiplier is 0.1: only 0"),
        ({f"{SCALING}type": "yarn", f"{SCALING}yarn_ext_factor": 0.5}, "yarn_ext_factor is 0.5"),
        ({f"{SCALING}some_new_key": 1.0}, "rope.scaling.some_new_key is 1.0"),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(changes)


def test_divisors_beside_other_stretching_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"rope_freqs.weight beside rope.scaling.factor 4.0"):
        read({f"{SCALING}factor": 4.0}, divisors=np.full(4, 2, dtype=np.float32))


def test_divisors_of_another_architecture_are_rejected() -> None:
    qwen = {name.replace("llama", "qwen2"): value for name, value in LLAMA.items()}
    qwen |= {"general.architecture": "qwen2"}
    with pytest.raises(ValueError, match=r"rope_freqs.weight is not part of .* qwen2"):
        config_of(qwen, NAMES, vocab_size=128, rope_freqs=np.ones(4, dtype=np.float32))
