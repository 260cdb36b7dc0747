"""A configuration states what sets a model apart and which attention each layer has."""

from dataclasses import replace

from parallel.model.model_config import (
    Activation,
    AttentionKind,
    LayerNorms,
    LocalLayers,
    ModelConfig,
    RopeConfig,
)

PLAIN = ModelConfig(
    model_type="plain",
    vocab_size=8,
    hidden_size=4,
    intermediate_size=6,
    num_layers=3,
    num_heads=2,
    num_kv_heads=1,
    head_dim=2,
    max_positions=16,
    rms_norm_eps=1e-6,
    rope=RopeConfig(theta=10000.0),
)
LOCAL = AttentionKind(rope=RopeConfig(theta=100.0), window=4)


def test_features_are_the_fields_that_differ_from_a_plain_llama() -> None:
    assert PLAIN.features == frozenset()
    changed = replace(PLAIN, activation=Activation.GELU_TANH, norms=LayerNorms(adds_one=True))
    assert changed.features == {"activation", "norms"}


def test_without_local_layers_all_layers_are_of_one_kind() -> None:
    config = replace(PLAIN, sliding_window=7)
    assert config.attention_kinds == (AttentionKind(rope=PLAIN.rope, window=7),)
    assert [config.kind_of(layer) for layer in range(3)] == [0, 0, 0]


def test_local_layers_have_a_window_and_rotary_settings_of_their_own() -> None:
    config = replace(PLAIN, local_layers=LocalLayers(layers=frozenset({0, 2}), attention=LOCAL))
    assert config.attention_kinds == (AttentionKind(rope=PLAIN.rope, window=None), LOCAL)
    assert [config.kind_of(layer) for layer in range(3)] == [1, 0, 1]


def test_a_layer_has_norms_before_and_perhaps_after_its_blocks() -> None:
    assert LayerNorms().names == ["input_layernorm", "post_attention_layernorm"]
    assert LayerNorms(after_attention="a", after_mlp="b").names == [
        "input_layernorm",
        "a",
        "post_attention_layernorm",
        "b",
    ]
