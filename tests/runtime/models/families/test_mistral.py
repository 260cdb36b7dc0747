"""Mistral configurations: all layers attend over the same window."""

import pytest

from runtime.models.hf_config import parse_config
from tests.support.small_config import SMALL_CONFIG

MISTRAL = SMALL_CONFIG | {"model_type": "mistral"}


def test_all_layers_look_back_over_the_window() -> None:
    assert parse_config(MISTRAL | {"sliding_window": 7}).sliding_window == 7
    assert parse_config(MISTRAL | {"sliding_window": None}).sliding_window is None
    assert parse_config(MISTRAL).sliding_window == 4096
    layers = ["sliding_attention"] * 2
    assert parse_config(MISTRAL | {"layer_types": layers}).sliding_window == 4096


def test_there_are_no_biases() -> None:
    config = parse_config(MISTRAL | {"attention_bias": False})
    assert not (config.qkv_bias)
    assert not (config.output_bias)
    assert not (config.mlp_bias)


def test_layers_that_contradict_the_window_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"layer_types is .* but sliding_window is 4096"):
        parse_config(MISTRAL | {"layer_types": ["sliding_attention", "full_attention"]})
