"""Qwen2 configurations: biases on queries, keys and values, and windows that no layer has."""

import json

import pytest
from transformers import AutoConfig

from runtime.models.hf_config import parse_config
from tests.support.small_config import SMALL_CONFIG

QWEN2 = SMALL_CONFIG | {"model_type": "qwen2"}


@pytest.mark.parametrize("stated", [False, True])
def test_queries_keys_and_values_have_biases_whatever_is_stated(stated: bool) -> None:
    config = parse_config(QWEN2 | {"attention_bias": stated})
    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == (True, False, False)


@pytest.mark.parametrize(
    "changes",
    [
        {"sliding_window": 7, "use_sliding_window": False},
        {"sliding_window": None, "use_sliding_window": True},
        {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 2},
        {"sliding_window": 7, "use_sliding_window": True},
        {"layer_types": ["full_attention", "full_attention"]},
    ],
)
def test_a_window_that_no_layer_has_is_ignored(changes: dict[str, object]) -> None:
    theirs = AutoConfig.for_model(**json.loads(json.dumps(QWEN2 | changes)))
    assert set(theirs.layer_types) == {"full_attention"}
    assert parse_config(QWEN2 | changes).sliding_window is None
