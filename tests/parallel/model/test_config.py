"""Reading Hugging Face configurations, of transformers 5 and before, and refusing the rest."""

import pytest

from parallel.model.config import ModelConfig

LLAMA: dict[str, object] = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "max_position_embeddings": 256,
}


def test_what_a_short_configuration_leaves_out_is_derived() -> None:
    config = ModelConfig.from_hf(LLAMA)
    assert config.num_kv_heads == 8
    assert config.head_dim == 8
    assert config.rope.theta == 10000.0
    assert not config.tied_head
    assert config.sliding_window is None


@pytest.mark.parametrize("type_name", ["type", "rope_type"])
def test_old_and_new_rope_settings_mean_the_same(type_name: str) -> None:
    old = LLAMA | {"rope_theta": 5e5, "rope_scaling": {type_name: "linear", "factor": 2.0}}
    new = LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}
    assert ModelConfig.from_hf(old) == ModelConfig.from_hf(new)
    assert ModelConfig.from_hf(new).rope.theta == 5e5


def test_only_some_architectures_have_biases() -> None:
    def biases(kind: str, attention_bias: bool) -> tuple[bool, bool]:
        config = ModelConfig.from_hf(LLAMA | {"model_type": kind, "attention_bias": attention_bias})
        return config.qkv_bias, config.output_bias

    assert biases("llama", True) == (True, True)
    assert biases("qwen3", True) == (True, True)
    assert biases("qwen2", False) == (True, False)
    assert biases("mistral", True) == (False, False)


def test_mistral_looks_back_over_its_window() -> None:
    mistral = LLAMA | {"model_type": "mistral"}
    assert ModelConfig.from_hf(mistral | {"sliding_window": 7}).sliding_window == 7
    assert ModelConfig.from_hf(mistral | {"sliding_window": None}).sliding_window is None
    assert ModelConfig.from_hf(mistral).sliding_window == 4096


def test_an_unused_window_is_ignored() -> None:
    qwen = LLAMA | {"model_type": "qwen2", "sliding_window": 7, "use_sliding_window": False}
    assert ModelConfig.from_hf(qwen).sliding_window is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "gpt2"},
            "'gpt2' is not supported; these are: llama, mistral, qwen2, qwen3",
        ),
        ({"model_type": None}, "architecture None is not supported"),
        ({"hidden_act": "gelu"}, "activation 'gelu' is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantised weights"),
        ({"num_key_value_heads": 3}, "8 query heads do not share 3 kv heads evenly"),
        ({"vocab_size": None}, "vocab_size is None: expected a positive whole number"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps is 'tiny': expected a number"),
        ({"rope_scaling": {"type": "longrope"}}, "RoPE scaling 'longrope' is not supported"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial rotary"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 7},
            "use_sliding_window",
        ),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_hf(LLAMA | changes)


def test_the_cache_holds_keys_and_values_of_each_kv_head() -> None:
    config = ModelConfig.from_hf(LLAMA | {"num_key_value_heads": 2})
    assert config.cache_values_per_token() == 2 * 2 * 2 * 8
    assert config.cache_values_per_token(1) == 2 * 2 * 8
