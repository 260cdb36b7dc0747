"""Layers several at a time: against a plain reference, on any ranks, and calibrated again."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from parallel.batch import SequenceRows
from parallel.model.cache import PagedCache
from parallel.model.transformer import Decoder
from tests.support.tiny_transformer import (
    RankThread,
    TinyModel,
    make_cache,
    on_ranks,
    rows_of,
    score,
    tiny_model,
    tokens,
)

PROMPT = tokens(24)
NUM_LAYERS = 7
KINDS = {"llama": {}, "qwen3": {}, "llama with biases": {"attention_bias": True, "mlp_bias": True}}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> TinyModel:
    kind: str = request.param
    return tiny_model(kind.split()[0], num_hidden_layers=NUM_LAYERS, **KINDS[kind])


def fuzzy_reference(
    reference: PreTrainedModel, token_ids: Sequence[int], width: int, alone: int = 0
) -> Tensor:
    """Compute the fuzzy forward over a whole sequence with transformers' own modules."""
    inner = reference.model
    with torch.inference_mode():
        h = inner.embed_tokens(torch.tensor([token_ids]))
        size = len(token_ids)
        turns = inner.rotary_emb(h, torch.arange(size).unsqueeze(0))
        mask = torch.full((1, 1, size, size), -torch.inf).triu(1)
        starts = [*range(alone), *range(alone, len(inner.layers), width), len(inner.layers)]
        for first, stop in pairwise(starts):
            group = inner.layers[first:stop]
            attended = [
                layer.self_attn(
                    layer.input_layernorm(h), position_embeddings=turns, attention_mask=mask
                )[0]
                for layer in group
            ]
            for layer, delta in zip(group, attended, strict=True):
                h = h + delta
                h = h + layer.mlp(layer.post_attention_layernorm(h))
        logits: Tensor = reference.lm_head(inner.norm(h))[0]
    return logits


def spread_score(model: TinyModel, size: int, width: int, alone: int = 0) -> Tensor:
    """Return the logits of a decoder spread over `size` ranks from layer `alone` on."""

    def on_rank(group: RankThread) -> Tensor:
        decoder = model.decoder(group, layer_parallel_from=alone)
        cache = make_cache(decoder)
        cache.open(0, len(PROMPT))
        with torch.inference_mode():
            return decoder.forward([rows_of(PROMPT)], cache, width=width)

    return torch.cat(on_ranks(size, on_rank), dim=1)


def test_one_layer_at_a_time_is_the_sequential_forward_bit_for_bit(model: TinyModel) -> None:
    assert torch.equal(spread_score(model, 1, 1), score(model.decoder(), PROMPT))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, NUM_LAYERS + 1])
def test_it_equals_the_fuzzy_computation_on_any_ranks(
    model: TinyModel, size: int, width: int
) -> None:
    expected = fuzzy_reference(model.reference, PROMPT, width)
    scale = expected.abs().max().item()
    torch.testing.assert_close(
        spread_score(model, size, width), expected, atol=1e-5 * scale, rtol=0
    )
    if width > 1:
        assert (expected - model.expected(PROMPT)).abs().max() > 1e-2 * scale


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(("width", "alone"), [(2, 1), (3, 4), (4, 2), (2, NUM_LAYERS + 2)])
def test_layers_before_a_given_one_stay_sequential(
    model: TinyModel, size: int, width: int, alone: int
) -> None:
    expected = fuzzy_reference(model.reference, PROMPT, width, min(alone, NUM_LAYERS))
    scale = expected.abs().max().item()
    found = spread_score(model, size, width, alone)
    torch.testing.assert_close(found, expected, atol=1e-5 * scale, rtol=0)
    if alone < NUM_LAYERS:
        all_wide = fuzzy_reference(model.reference, PROMPT, width)
        assert (expected - all_wide).abs().max() > 1e-3 * scale
    else:
        assert torch.equal(found, spread_score(model, size, 1))


@pytest.mark.parametrize("width", [2, 4])
def test_an_exact_forward_over_fuzzy_tokens_leaves_no_trace_of_them(
    model: TinyModel, width: int
) -> None:
    decoder = model.decoder(layer_parallel_from=0)
    cache, fresh = make_cache(decoder), make_cache(decoder)
    for store in (cache, fresh):
        store.open(0, len(PROMPT))
    forward(decoder, cache, 0, 10)
    for place in range(10, 16):
        forward(decoder, cache, place, place + 1, width)
    spoiled = cache.snapshot(0)
    forward(decoder, cache, 10, 18)
    forward(decoder, fresh, 0, 18)
    torch.testing.assert_close(cache.snapshot(0), fresh.snapshot(0), atol=1e-5, rtol=0)
    assert not torch.allclose(spoiled, fresh.snapshot(0)[:, :, :, :16], atol=1e-3)


def test_more_ranks_than_layers_are_rejected() -> None:
    group = RankThread.__new__(RankThread)
    group.rank, group.size = 0, 4
    with pytest.raises(ValueError, match="3 layers split over at most 3 ranks, not 4"):
        tiny_model().decoder(group, layer_parallel_from=0)


def forward(decoder: Decoder, cache: PagedCache, start: int, stop: int, width: int = 1) -> None:
    row = SequenceRows(slot=0, start=start, token_ids=PROMPT[start:stop], num_logits=1)
    with torch.inference_mode():
        decoder.forward([row], cache, width=width)
