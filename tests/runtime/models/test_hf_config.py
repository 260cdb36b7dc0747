"""Configurations mean what they mean in transformers, or are rejected by name."""

import importlib
import inspect
import json
import re

import pytest
import torch
from transformers import AutoConfig, PretrainedConfig, masking_utils
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from parallel.model.rope import inverse_frequencies
from runtime.models.config_keys import HARMLESS
from runtime.models.hf_config import parse_config
from tests.support.published_configs import PUBLISHED

LLAMA: dict[str, object] = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "max_position_embeddings": 256,
}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
MODELS = "transformers.models.{0}.modeling_{0}"
QWEN = LLAMA | {"model_type": "qwen2", "num_key_value_heads": 8}
MISTRAL = LLAMA | {"model_type": "mistral"}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def theirs(config: dict[str, object]) -> PretrainedConfig:
    fields = json.loads(json.dumps(config))  # transformers changes what it is given
    return AutoConfig.for_model(**fields)


def test_what_a_short_configuration_leaves_out_is_derived() -> None:
    config = parse_config(LLAMA)
    assert config.num_kv_heads == 8
    assert config.head_dim == 8
    assert config.rope.theta == 10000.0
    assert not config.tied_head
    assert config.sliding_window is None


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("is_saved_again", [False, True])
def test_published_models_read_as_by_transformers(name: str, is_saved_again: bool) -> None:
    fields, context = PUBLISHED[name]
    expected = theirs(fields)
    config = parse_config(json.loads(expected.to_json_string()) if is_saved_again else fields)
    assert config.max_positions == context
    assert config.num_kv_heads == expected.num_key_value_heads
    assert config.head_dim == getattr(expected, "head_dim", config.hidden_size // config.num_heads)
    assert config.tied_head == expected.tie_word_embeddings
    assert config.rms_norm_eps == expected.rms_norm_eps
    assert config.rope.theta == expected.rope_parameters["rope_theta"]
    assert config.sliding_window == expected.sliding_window if "Mistral" in name else True


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("mistral", "num_key_value_heads"),
        ("mistral", "max_position_embeddings"),
        ("qwen2", "num_key_value_heads"),
        ("qwen3", "head_dim"),
        ("llama", "max_position_embeddings"),
        ("qwen3", "rms_norm_eps"),
        ("llama", "num_key_value_heads"),
    ],
)
def test_a_missing_key_has_the_default_of_its_family(kind: str, missing: str) -> None:
    fields = LLAMA | {"model_type": kind, "num_attention_heads": 32, "num_key_value_heads": 4}
    fields = {name: value for name, value in fields.items() if name != missing}
    expected, config = theirs(fields), parse_config(fields)
    assert config.num_kv_heads == expected.num_key_value_heads
    assert config.head_dim == getattr(expected, "head_dim", 2)
    assert config.max_positions == expected.max_position_embeddings
    assert config.rms_norm_eps == expected.rms_norm_eps


ROPES: dict[str, dict[str, object]] = {
    "none": {},
    "theta before transformers 5": {"rope_theta": 5e5},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}},
    "linear before": {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "both spellings": {"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 4}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "llama3": {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 64}},
    "llama3 before": {
        "rope_theta": 5e5,
        "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 64},
    },
    "llama3 without original": {"rope_scaling": LLAMA3},
    "llama3 with original outside": {
        "rope_scaling": LLAMA3,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_parameters": YARN | {"rope_theta": 1e6}},
    "yarn before": {"rope_theta": 1e6, "rope_scaling": YARN},
    "yarn without original": {"rope_scaling": {"type": "yarn", "factor": 2.0}},
    "yarn with mscale": {"rope_scaling": YARN | {"mscale": 0.7, "mscale_all_dim": 1.2}},
    "yarn with its own temperature": {"rope_scaling": YARN | {"attention_factor": 0.9}},
    "yarn with betas": {"rope_scaling": YARN | {"beta_fast": 16, "beta_slow": 2}},
    "yarn untruncated": {"rope_scaling": YARN | {"truncate": False}},
    "yarn with factor null": {"rope_scaling": YARN | {"factor": None}},
    "scaling beside a default": {
        "rope_scaling": {"type": "linear", "factor": 4.0},
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "scaling beside a default, another theta above": {
        "rope_theta": 5e5,
        "rope_scaling": YARN,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    },
    "an empty scaling": {"rope_scaling": {}, "rope_parameters": {"rope_theta": 5e5}},
}


@pytest.mark.parametrize("name", ROPES)
def test_rotary_settings_come_to_the_frequencies_of_transformers(name: str) -> None:
    fields = LLAMA | {"head_dim": 64} | ROPES[name]
    rope = parse_config(fields).rope
    expected = LlamaRotaryEmbedding(theirs(fields))
    torch.testing.assert_close(
        inverse_frequencies(rope, 64), expected.original_inv_freq, rtol=1e-6, atol=0
    )
    assert rope.attention_factor == pytest.approx(expected.attention_scaling, rel=1e-12)


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 1024),
        ({"rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "yarn", "factor": 4.0}, 1024),
        (YARN, 256),
        (YARN | {"original_max_position_embeddings": 128}, 512),
        (LLAMA3, 1024),
        (LLAMA3 | {"original_max_position_embeddings": 256}, 1024),
        (LLAMA3 | {"original_max_position_embeddings": 128}, 256),
        ({"rope_type": "dynamic", "factor": 4.0}, 256),
        ({"rope_type": "linear", "factor": 0.5}, 256),
    ],
)
def test_the_context_is_the_stretched_one(rope: dict[str, object], context: int) -> None:
    assert parse_config(LLAMA | {"rope_scaling": rope}).max_positions == context


@pytest.mark.parametrize(
    "changes",
    [
        {"some_new_scale": None},
        {"use_new_attention": False},
        {"logit_scale": 1.0},
        {"architectures": ["LLaMAForCausalLM"]},
        {"hidden_act": "swish"},
        {"temperature": 0.6, "top_p": 0.9, "max_length": 20, "do_sample": True},
        {"pruned_heads": {}, "chunk_size_feed_forward": 0, "output_attentions": False},
        {"quantization_config": None, "auto_map": None},
        {"num_experts": 0, "partial_rotary_factor": 1.0},
    ],
)
def test_keys_that_change_nothing_are_skipped(changes: dict[str, object]) -> None:
    assert parse_config(LLAMA | changes) == parse_config(LLAMA)


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"model_type": "gpt2"}, "'gpt2' is not supported; these are: "),
    ({"model_type": None}, "architecture None is not supported"),
    ({"model_type": ["llama"]}, r"architecture \['llama'\] is not supported"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
    ({"architectures": ["MistralForCausalLM"]}, "architectures is .*'LlamaForCausalLM'"),
    ({"architectures": ["LlamaModel"]}, "architectures is .*LlamaModel"),
    ({"hidden_act": "gelu"}, "activation 'gelu'"),
    ({"quantization_config": {"bits": 4}}, "quantized weights"),
    ({"compression_config": {"format": "float"}}, "compression_config is"),
    ({"quantization": {"bits": 4, "group_size": 64}}, "quantization is"),
    ({"auto_map": {"AutoModel": "modeling_x.X"}}, "auto_map is .*a model's own code is not run"),
    ({"num_key_value_heads": 3}, "8 query heads do not share 3 kv heads evenly"),
    ({"vocab_size": None}, "vocab_size is None: expected a positive whole number"),
    ({"hidden_size": "64"}, "hidden_size is '64'"),
    ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    ({"num_hidden_layers": True}, "num_hidden_layers is True"),
    ({"head_dim": 7}, "head_dim is 7"),
    ({"rms_norm_eps": "tiny"}, "rms_norm_eps is 'tiny': expected a number"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false': expected true or false"),
    ({"attention_bias": 1}, "attention_bias is 1: expected true or false"),
    ({"model_type": "mistral", "attention_bias": True}, "attention_bias is True"),
    ({"model_type": "mistral", "mlp_bias": True}, "mlp_bias is True"),
    ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
    ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
    ({"residual_multiplier": 0.22}, "residual_multiplier is 0.22"),
    ({"num_experts": 8}, "num_experts is 8"),
    ({"is_causal": False}, "is_causal is False"),
    ({"use_qk_norm": True}, "use_qk_norm is True"),
    ({"rope_interleaved": True}, "rope_interleaved is True"),
    ({"transformers_weights": "other.safetensors"}, "transformers_weights is"),
    ({"per_layer_config": {"0": {"num_attention_heads": 4}}}, "per_layer_config is"),
    ({"attention_chunk_size": 8}, "attention_chunk_size is 8"),
    ({"some_new_scale": 0.5}, "some_new_scale is 0.5, which may change the output"),
    ({"some_new_scale": 0}, "some_new_scale is 0, which may change the output"),
    # sliding windows
    ({"sliding_window": 7}, "sliding_window is 7"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ({"layer_types": ["full_attention"]}, "layer_types .* one entry for each of 2"),
    (QWEN | {"use_sliding_window": True, "max_window_layers": 1}, "use_sliding_window"),
    (QWEN | {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    (MISTRAL | {"sliding_window": 0}, "sliding_window is 0"),
    (MISTRAL | {"sliding_window": "4096"}, "sliding_window is '4096'"),
    (MISTRAL | {"sliding_window": 7, "use_sliding_window": False}, "use_sliding_window is False"),
    (MISTRAL | {"layer_types": ["sliding_attention", "full_attention"]}, "layer_types"),
    # rotary embeddings
    ({"rope_scaling": {"type": "longrope"}}, "RoPE scaling 'longrope' is not supported"),
    ({"rope_scaling": {"type": "mrope", "mrope_section": [1]}}, "RoPE scaling 'mrope'"),
    ({"rope_scaling": "linear"}, "rope_scaling is 'linear': expected an object"),
    ({"rope_scaling": {"factor": 4.0}}, "factor is 4.0 without a rope_type"),
    ({"rope_scaling": {"type": "linear"}}, "factor is None"),
    ({"rope_scaling": {"type": "yarn"}}, "'yarn' needs a factor"),
    ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0"),
    ({"rope_scaling": {"type": "linear", "factor": True}}, "factor is True"),
    ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2}}, "rope_type 'yarn'"),
    ({"rope_scaling": {"type": "linear", "factor": 2, "beta_fast": 3}}, "beta_fast is 3 beside"),
    ({"rope_scaling": YARN | {"extrapolation_factor": 1.0}}, "extrapolation_factor is 1.0"),
    ({"rope_scaling": {"type": "llama3", "factor": 8.0}}, "low_freq_factor is None"),
    ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "must exceed low_freq_factor"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial rotary"),
    ({"partial_rotary_factor": 0.5}, "partial rotary"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention is"),
    ({"rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e4}}, "rope_theta is 500000.0 and"),
    (
        {"rope_scaling": YARN, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        "rope_parameters.rope_theta is 500000.0, but rope_scaling comes to 10000.0",
    ),
    (
        {"rope_scaling": YARN, "rope_parameters": {"rope_type": "linear", "factor": 4.0}},
        "rope_parameters.rope_type is 'linear', but rope_scaling comes to 'yarn'",
    ),
    (
        {"rope_scaling": YARN, "original_max_position_embeddings": 128},
        "original_max_position_embeddings is 128, and 64",
    ),
    (
        {"rope_scaling": {"type": "dynamic", "factor": 2, "original_max_position_embeddings": 64}},
        "original_max_position_embeddings is 64, but rope_type 'dynamic'",
    ),
    ({"original_max_position_embeddings": 64}, "original_max_position_embeddings is 64"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_is_not_supported_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(LLAMA | changes)


def test_no_key_that_the_models_of_transformers_read_is_skipped() -> None:
    sources = [masking_utils, *(importlib.import_module(MODELS.format(kind)) for kind in FAMILIES)]
    pattern = re.compile(r"config\.(\w+)|getattr\((?:self\.)?config, \"(\w+)\"")
    found = {
        name
        for source in sources
        for groups in pattern.findall(inspect.getsource(source))
        for name in groups
    }
    assert {"hidden_size", "sliding_window", "is_causal"} <= found
    in_training_only = {"attention_dropout", "use_cache"}
    of_the_form = {"_attn_implementation", "output_attentions", "return_dict", "pad_token_id"}
    assert found & HARMLESS.keys() <= in_training_only | of_the_form


def test_the_cache_holds_keys_and_values_of_each_kv_head() -> None:
    config = parse_config(LLAMA | {"num_key_value_heads": 2})
    assert config.cache_values_per_token() == 2 * 2 * 2 * 8
    assert config.cache_values_per_token(1) == 2 * 2 * 8
