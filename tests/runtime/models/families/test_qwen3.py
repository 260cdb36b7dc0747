"""Qwen3 configurations: normalized queries and keys."""

import pytest

from runtime.models.families.fields import Fields
from runtime.models.families.qwen3 import FAMILY
from runtime.models.hf_config import parse_config
from tests.support.small_config import SMALL_CONFIG

QWEN3 = SMALL_CONFIG | {"model_type": "qwen3"}


@pytest.mark.parametrize("stated", [False, True])
def test_queries_and_keys_are_normalized_and_biases_are_as_stated(stated: bool) -> None:
    config = parse_config(QWEN3 | {"attention_bias": stated})
    assert config.qk_norm
    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == (stated, stated, False)


def test_heads_have_128_dimensions_by_default() -> None:
    assert parse_config(QWEN3).head_dim == 128


@pytest.mark.parametrize("names", [frozenset[str](), frozenset({"blk.0.attn_q.bias"})])
def test_a_file_has_biases_where_it_has_their_tensors(names: frozenset[str]) -> None:
    assert FAMILY.gguf is not None
    assert FAMILY.gguf.settings(Fields({}), {}, names) == {"attention_bias": bool(names)}
