"""Each feature equals a change of a plain decoder's weights or logits, on every backend."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from parallel.group import SoloGroup
from parallel.kernels.native_library import SWITCH, native_library
from parallel.model.model_config import (
    Activation,
    AttentionKind,
    LayerNorms,
    LocalLayers,
    ModelConfig,
)
from parallel.model.transformer import Decoder
from tests.support.tiny_transformer import CPU, TableSource, score, tiny_model, tokens

PROMPT = tokens(20)


@pytest.fixture(autouse=True, params=["torch", ""])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(SWITCH, request.param)
    native_library.cache_clear()
    yield
    native_library.cache_clear()


PLAIN = tiny_model("llama")


def scored(config: ModelConfig, changes: dict[str, Tensor] | None = None) -> Tensor:
    weights = PLAIN.reference.state_dict() | (changes or {})
    return score(Decoder(config, TableSource(weights), SoloGroup(), device=CPU), PROMPT)


def weights_of(part: str) -> dict[str, Tensor]:
    return {name: w for name, w in PLAIN.reference.state_dict().items() if part in name}


def check_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (expected - scored(PLAIN.config)).abs().max() > 0.01, "the feature changes nothing"


def test_scaled_embeddings_are_a_scaled_table() -> None:
    assert not PLAIN.config.tied_head
    scaled = {name: w * 3 for name, w in weights_of("embed_tokens").items()}
    check_same(scored(replace(PLAIN.config, embedding_scale=3.0)), scored(PLAIN.config, scaled))


def test_scaled_attention_scores_are_scaled_queries() -> None:
    scaled = {name: w * 3 for name, w in weights_of("q_proj").items()}
    config = replace(PLAIN.config, attention_scale=3 / PLAIN.config.head_dim**0.5)
    check_same(scored(config), scored(PLAIN.config, scaled))


def test_norms_that_add_one_have_weights_that_are_less_by_one() -> None:
    more = {name: w + 1 for name, w in weights_of("norm").items()}
    config = replace(PLAIN.config, norms=LayerNorms(adds_one=True))
    check_same(scored(config), scored(PLAIN.config, more))


def test_capped_logits_are_bent_towards_the_cap() -> None:
    plain = scored(PLAIN.config)
    cap = float(plain.abs().max()) / 2
    found = scored(replace(PLAIN.config, logit_cap=cap))
    check_same(found, cap * torch.tanh(plain / cap))
    assert found.abs().max() < cap


def test_local_layers_attend_over_their_window_with_their_rotary_settings() -> None:
    windowed = replace(PLAIN.config, sliding_window=5, rope=replace(PLAIN.config.rope, theta=50.0))
    kind = AttentionKind(rope=windowed.rope, window=5)

    def with_local(*layers: int) -> Tensor:
        local = LocalLayers(layers=frozenset(layers), attention=kind)
        return scored(replace(PLAIN.config, local_layers=local))

    check_same(with_local(0, 1, 2), scored(windowed))
    torch.testing.assert_close(with_local(), scored(PLAIN.config), atol=1e-5, rtol=0)
    assert (with_local(1) - with_local(0, 1, 2)).abs().max() > 0.01


def test_norms_after_the_blocks_normalize_what_they_add() -> None:
    after = torch.full((PLAIN.config.hidden_size,), 1.0)
    names = [f"model.layers.{i}.{name}.weight" for i in range(3) for name in ("a", "m")]
    config = replace(PLAIN.config, norms=LayerNorms(after_attention="a", after_mlp="m"))
    found = scored(config, dict.fromkeys(names, after))
    # What is normalized does not depend on its scale.
    larger = {n: w * 100 for part in ("o_proj", "down_proj") for n, w in weights_of(part).items()}
    check_same(found, scored(config, dict.fromkeys(names, after) | larger))


def test_gelu_takes_the_place_of_silu() -> None:
    gelu = scored(replace(PLAIN.config, activation=Activation.GELU_TANH))
    for layer in PLAIN.reference.model.layers:
        layer.mlp.act_fn = torch.nn.GELU(approximate="tanh")
    try:
        check_same(gelu, PLAIN.expected(PROMPT))
    finally:
        for layer in PLAIN.reference.model.layers:
            layer.mlp.act_fn = torch.nn.SiLU()
