"""Llama configurations and files."""

import pytest

from runtime.models.families.llama import FAMILY
from runtime.models.hf_config import parse_config
from tests.support.small_config import SMALL_CONFIG

LLAMA = SMALL_CONFIG | {"model_type": "llama"}


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("mlp", [False, True])
def test_biases_are_as_the_configuration_states(attention: bool, mlp: bool) -> None:
    config = parse_config(LLAMA | {"attention_bias": attention, "mlp_bias": mlp})
    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == (attention, attention, mlp)


def test_a_window_is_rejected() -> None:
    with pytest.raises(ValueError, match="sliding_window is 7, which a llama model does not have"):
        parse_config(LLAMA | {"sliding_window": 7})


def test_query_and_key_rows_of_a_file_return_to_halves() -> None:
    assert FAMILY.gguf is not None
    config = {"num_attention_heads": 2, "num_key_value_heads": 1}
    order = FAMILY.gguf.row_order("model.layers.0.self_attn.q_proj.weight", 8, config)
    assert order is not None
    assert order.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert FAMILY.gguf.row_order("model.layers.0.self_attn.v_proj.weight", 8, config) is None
    with pytest.raises(ValueError, match="has 7 rows for 2 heads"):
        FAMILY.gguf.row_order("model.layers.0.self_attn.q_proj.weight", 7, config)
