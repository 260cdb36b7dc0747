"""The decoder against transformers, whole and split, in every order of calls."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from parallel.batch import SequenceRows, path_to
from parallel.group import SoloGroup
from parallel.model.cache import SoleCache
from parallel.model.pages import CacheFull
from parallel.model.transformer import Decoder
from tests.support.tiny_transformer import (
    CPU,
    RankThread,
    TableSource,
    TinyModel,
    make_cache,
    on_ranks,
    rows_of,
    score,
    tiny_model,
    tokens,
)

TOLERANCE = 1e-4
PROMPT = tokens(40)


def rope(kind: str, **fields: object) -> dict[str, object]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **fields}}


CASES: Mapping[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama without grouping": ("llama", {"num_key_value_heads": 9}),
    "llama linear": ("llama", rope("linear", factor=2.5)),
    "llama dynamic": ("llama", rope("dynamic", factor=2.0)),
    "llama3": (
        "llama",
        rope(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=16,
        ),
    ),
    "llama yarn": ("llama", rope("yarn", factor=8.0, original_max_position_embeddings=16)),
    "yarn with mscale": (
        "llama",
        rope(
            "yarn",
            factor=4.0,
            original_max_position_embeddings=32,
            mscale=0.7,
            mscale_all_dim=0.4,
            beta_fast=16.0,
            truncate=False,
        ),
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral sliding": ("mistral", {"sliding_window": 7}),
    "qwen2": ("qwen2", {}),
    "qwen2 yarn": ("qwen2", rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    "qwen3": ("qwen3", {}),
    "qwen3 tied with biases": ("qwen3", {"tie_word_embeddings": True, "attention_bias": True}),
}


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return tiny_model()


@pytest.fixture
def decoder(model: TinyModel) -> Decoder:
    return model.decoder()


def forward(decoder: Decoder, rows: list[SequenceRows], cache: SoleCache) -> Tensor:
    with torch.inference_mode():
        return decoder.forward(rows, cache)


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_those_of_transformers(name: str) -> None:
    kind, changes = CASES[name]
    model = tiny_model(kind, **changes)
    torch.testing.assert_close(
        score(model.decoder(), PROMPT), model.expected(PROMPT), atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("name", ["llama with biases", "qwen3 tied with biases", "qwen2"])
@pytest.mark.parametrize("size", [2, 3, 4, 9])
def test_ranks_together_equal_the_whole_model(name: str, size: int) -> None:
    kind, changes = CASES[name]
    model = tiny_model(kind, **changes)

    def shard(group: RankThread) -> Tensor:
        return score(model.decoder(group), PROMPT)

    logits = torch.cat(on_ranks(size, shard), dim=1)
    torch.testing.assert_close(logits, model.expected(PROMPT), atol=TOLERANCE, rtol=0)


def test_more_ranks_than_query_heads_are_rejected(model: TinyModel) -> None:
    group = RankThread.__new__(RankThread)
    group.rank, group.size = 0, 10
    with pytest.raises(ValueError, match="9 query heads split over at most 9 ranks, not over 10"):
        model.decoder(group)


def test_kept_layers_alone_make_the_drafter(model: TinyModel) -> None:
    cut = tiny_model(num_hidden_layers=2)
    ours = {
        name.replace("layers.2.", "layers.1."): tensor
        for name, tensor in model.reference.state_dict().items()
        if "layers.1." not in name
    }
    cut.reference.load_state_dict(ours)
    torch.testing.assert_close(
        score(model.decoder(layers=(0, 2)), PROMPT), cut.expected(PROMPT), atol=TOLERANCE, rtol=0
    )


def test_a_kept_part_shares_its_weights_and_leaves_the_whole_alone(
    model: TinyModel, decoder: Decoder
) -> None:
    part = decoder.keeping((0, 2))
    torch.testing.assert_close(score(part, PROMPT), score(model.decoder(layers=(0, 2)), PROMPT))
    assert part.stack.num_cached_layers == 2
    torch.testing.assert_close(
        score(decoder, PROMPT), model.expected(PROMPT), atol=TOLERANCE, rtol=0
    )


def test_tokens_one_at_a_time_equal_one_prefill(model: TinyModel, decoder: Decoder) -> None:
    cache = make_cache(decoder)
    cache.open(0, 12)
    steps = [forward(decoder, [rows_of((t,), start=i)], cache) for i, t in enumerate(PROMPT[:12])]
    torch.testing.assert_close(
        torch.cat(steps), model.expected(PROMPT[:12]), atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("window", [None, 5])
def test_a_ragged_batch_equals_each_sequence_alone(window: int | None) -> None:
    model = tiny_model("mistral", sliding_window=window)
    decoder = model.decoder()
    cache = make_cache(decoder)
    texts = {slot: tokens(24, seed=slot) for slot in range(3)}
    for slot in texts:
        cache.open(slot, 24)
    before = [rows_of(texts[1][:18], slot=1), rows_of(texts[2][:11], slot=2)]
    forward(decoder, before, cache)
    rows = [
        rows_of(texts[0][:20], slot=0),
        rows_of(texts[1][18:19], slot=1, start=18),
        rows_of(texts[2][11:16], slot=2, start=11),
    ]
    expected = torch.cat(
        [
            model.expected(texts[0][:20]),
            model.expected(texts[1][:19])[18:],
            model.expected(texts[2][:16])[11:],
        ]
    )
    torch.testing.assert_close(forward(decoder, rows, cache), expected, atol=TOLERANCE, rtol=0)


def test_only_the_wanted_logits_are_returned(model: TinyModel, decoder: Decoder) -> None:
    cache = make_cache(decoder)
    for slot in range(3):
        cache.open(slot, 16)
    first, second = tokens(9, seed=1), tokens(6, seed=2)
    rows = [
        SequenceRows(slot=0, start=0, token_ids=first, num_logits=2),
        SequenceRows(slot=1, start=0, token_ids=tokens(3), num_logits=0),
        SequenceRows(slot=2, start=0, token_ids=second, num_logits=1),
    ]
    expected = torch.cat([model.expected(first)[-2:], model.expected(second)[-1:]])
    torch.testing.assert_close(forward(decoder, rows, cache), expected, atol=TOLERANCE, rtol=0)


def test_a_forward_without_wanted_logits_returns_none_and_fills_the_cache(
    model: TinyModel, decoder: Decoder
) -> None:
    cache = make_cache(decoder)
    cache.open(0, 40)
    rows = SequenceRows(slot=0, start=0, token_ids=PROMPT[:-1], num_logits=0)
    assert forward(decoder, [rows], cache).shape == (0, 101)
    last = forward(decoder, [rows_of(PROMPT[-1:], start=39)], cache)
    torch.testing.assert_close(last, model.expected(PROMPT)[-1:], atol=TOLERANCE, rtol=0)


def test_a_rollback_leaves_no_trace(model: TinyModel, decoder: Decoder) -> None:
    cache = make_cache(decoder)
    cache.open(0, 40)
    forward(decoder, [rows_of(PROMPT[:20] + tokens(15, seed=7))], cache)
    again = forward(decoder, [rows_of(PROMPT[20:30], start=20)], cache)
    assert cache.length(0) == 30
    torch.testing.assert_close(again, model.expected(PROMPT[:30])[20:], atol=TOLERANCE, rtol=0)


TREE = (-1, 0, 0, -1, 1, 3, 4)
"""Two branches under the root; the first one forks."""


@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize("scattered", [False, True])
def test_each_path_of_a_tree_equals_its_text_alone(kind: str, scattered: bool) -> None:
    model = tiny_model(kind, sliding_window=6) if kind == "mistral" else tiny_model(kind)
    decoder = model.decoder()
    cache = make_cache(decoder, num_pages=24, page_size=4)
    if scattered:
        for slot in range(100, 124):
            cache.open(slot, 4)
        for slot in range(100, 124, 2):
            cache.free(slot)
    cache.open(0, 40)
    forward(decoder, [rows_of(PROMPT[:9])], cache)
    nodes = tokens(len(TREE), seed=11)
    row = SequenceRows(
        slot=0, start=9, token_ids=(PROMPT[9], *nodes), num_logits=1 + len(TREE), parents=TREE
    )
    logits = forward(decoder, [row], cache)
    for node in range(len(TREE)):
        path = tuple(nodes[i] for i in path_to(TREE, node))
        expected = model.expected(PROMPT[:10] + path)[-1]
        torch.testing.assert_close(logits[node + 1], expected, atol=TOLERANCE, rtol=0)

    # What is kept of the tree moves to its place, and the text continues after it.
    kept = path_to(TREE, 6)
    text = PROMPT[:10] + tuple(nodes[i] for i in kept)
    row = SequenceRows(
        slot=0,
        start=len(text),
        token_ids=PROMPT[10:13],
        num_logits=3,
        moves=tuple(10 + i for i in kept),
    )
    after = forward(decoder, [row], cache)
    assert cache.length(0) == len(text) + 3
    expected = model.expected(text + PROMPT[10:13])[-3:]
    torch.testing.assert_close(after, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_tree_that_grows_forward_by_forward_equals_each_path_alone(kind: str) -> None:
    model = tiny_model(kind, sliding_window=6) if kind == "mistral" else tiny_model(kind)
    decoder = model.decoder()
    cache = make_cache(decoder, num_pages=24, page_size=4)
    cache.open(0, 40)
    nodes = tokens(len(TREE), seed=11)
    forward(decoder, [rows_of(PROMPT[:10])], cache)
    found = []
    for first, stop in ((0, 3), (3, 4), (4, 7)):
        row = SequenceRows(
            slot=0,
            start=10 + first,
            token_ids=tuple(nodes[first:stop]),
            num_logits=stop - first,
            parents=TREE[:stop],
        )
        assert row.positions == [10 + len(path_to(TREE, i)) - 1 for i in range(first, stop)]
        found += list(forward(decoder, [row], cache))
    for node, logits in enumerate(found):
        path = tuple(nodes[i] for i in path_to(TREE, node))
        expected = model.expected(PROMPT[:10] + path)[-1]
        torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)


def test_what_does_not_form_a_tree_is_rejected(decoder: Decoder) -> None:
    for parents in ((0,), (-1, 1), (-2,), (-1, -1, -1, -1)):
        with pytest.raises(ValueError, match="do not form a tree"):
            SequenceRows(slot=0, start=0, token_ids=(1, 2, 3), num_logits=1, parents=parents)
    cache = make_cache(decoder)
    cache.open(0, 40)
    forward(decoder, [rows_of(PROMPT[:10])], cache)
    for moves in ((7, 6), (5, 10), (3, 7)):
        row = SequenceRows(slot=0, start=6, token_ids=(1,), num_logits=1, moves=moves)
        with pytest.raises(ValueError, match="slot 0 holds 10 tokens: cannot keep"):
            forward(decoder, [row], cache)


def test_scattered_pages_give_the_same_logits(model: TinyModel, decoder: Decoder) -> None:
    cache = make_cache(decoder, num_pages=20, page_size=4)
    for slot in range(100, 120):
        cache.open(slot, 4)
    for slot in range(100, 120, 2):
        cache.free(slot)
    cache.open(0, 40)  # ten single pages, no two contiguous
    with pytest.raises(CacheFull):
        cache.open(1, 1)
    logits = [
        forward(decoder, [rows_of(PROMPT[:17])], cache),
        forward(decoder, [rows_of(PROMPT[17:], start=17)], cache),
    ]
    torch.testing.assert_close(torch.cat(logits), model.expected(PROMPT), atol=TOLERANCE, rtol=0)


def test_rows_beyond_the_cached_tokens_are_rejected(decoder: Decoder) -> None:
    cache = make_cache(decoder)
    cache.open(0, 40)
    forward(decoder, [rows_of(PROMPT[:4])], cache)
    with pytest.raises(ValueError, match="slot 0 holds 4 tokens, not 6"):
        forward(decoder, [rows_of(PROMPT[:1], start=6)], cache)


def test_rows_beyond_the_reserved_pages_are_rejected(decoder: Decoder) -> None:
    cache = make_cache(decoder)
    cache.open(0, 6)
    with pytest.raises(ValueError, match="slot 0 can hold 8 tokens, not 9"):
        forward(decoder, [rows_of(PROMPT[:9])], cache)


def test_half_precision_runs_and_returns_float32(model: TinyModel) -> None:
    source = TableSource(model.reference.state_dict(), torch.bfloat16)
    decoder = Decoder(model.config, source, SoloGroup(), device=CPU)
    cache = SoleCache(
        num_layers=3, num_kv_heads=3, head_dim=8, num_pages=10, page_size=4, dtype=torch.bfloat16
    )
    cache.open(0, 40)
    logits = forward(decoder, [rows_of(PROMPT)], cache)
    assert logits.dtype == torch.float32
    expected = model.expected(PROMPT)
    assert (logits - expected).norm() < 0.05 * expected.norm()
