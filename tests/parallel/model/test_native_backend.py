"""The native backend equals torch's operators, and a row's bits depend on nothing but the row."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from parallel.batch import SequenceRows
from parallel.group import Group, SoloGroup
from parallel.kernels.native_library import load_library
from parallel.model.cache import SoleCache
from parallel.model.native_backend import NativeBackend
from parallel.model.torch_backend import TorchBackend
from parallel.model.transformer import Decoder
from parallel.weights.weight_format import WeightFormat
from runtime.models.hf_config import parse_config
from tests.support.reference_models import make_model
from tests.support.stored_models import FORMS, FULL_FORMS, StoredSource, stored_model
from tests.support.tiny_transformer import (
    CPU,
    KINDS,
    RankThread,
    TableSource,
    TinyModel,
    make_cache,
    on_ranks,
    rows_of,
    tiny_model,
    tokens,
)

PROMPT = tokens(45)
GEMMA3: dict[str, object] = {
    "model_type": "gemma3_text",
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 400,
    "sliding_window": 6,
}
"""Norms after blocks, local layers, norms of queries and keys, and sizes that no vector divides."""


@pytest.fixture(params=["avx512_vnni", "avx2", "plain"])
def backend(request: pytest.FixtureRequest) -> Iterator[NativeBackend]:
    try:
        yield NativeBackend(load_library(request.param))
    except OSError as error:
        pytest.skip(str(error))
    finally:
        load_library()


def decoder_of(
    model: TinyModel,
    source: TableSource,
    backend: NativeBackend | TorchBackend,
    group: Group | None = None,
) -> Decoder:
    return Decoder(model.config, source, group or SoloGroup(), device=CPU, backend=backend)


def forward(decoder: Decoder, rows: Sequence[SequenceRows], cache: SoleCache) -> Tensor:
    with torch.inference_mode():
        return decoder.forward(rows, cache)


def whole(decoder: Decoder, token_ids: Sequence[int]) -> Tensor:
    cache = make_cache(decoder)
    cache.open(0, len(token_ids))
    return forward(decoder, [rows_of(token_ids)], cache)


@pytest.mark.parametrize("family", list(KINDS))
@pytest.mark.parametrize(("kind", "options"), FORMS)
def test_logits_equal_those_of_the_same_weights_in_float32(
    backend: NativeBackend, family: str, kind: WeightFormat, options: dict[str, bool]
) -> None:
    model, source = stored_model(kind, family, **options)
    found = whole(decoder_of(model, source, backend), PROMPT)
    reference = decoder_of(model, source.dequantized(), TorchBackend(torch.float32))
    atol = 1e-2 if kind.is_grouped else 1e-3
    torch.testing.assert_close(found, whole(reference, PROMPT), atol=atol, rtol=0)


@pytest.mark.parametrize("size", [1, 2])
def test_every_feature_of_a_layer_equals_torchs(backend: NativeBackend, size: int) -> None:
    reference = make_model(GEMMA3, own_head=False)
    model = replace(tiny_model("llama"), config=parse_config(GEMMA3))
    source = TableSource(reference.state_dict())
    prompt = tuple(i % model.config.vocab_size for i in PROMPT)
    expected = whole(decoder_of(model, source, TorchBackend(torch.float32)), prompt)
    found = on_ranks(size, lambda group: whole(decoder_of(model, source, backend, group), prompt))
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("kind", "options"), FULL_FORMS)
def test_a_row_has_the_same_bits_however_its_text_was_cut_and_batched(
    backend: NativeBackend, kind: WeightFormat, options: dict[str, bool]
) -> None:
    model, source = stored_model(kind, "llama", **options)
    decoder = decoder_of(model, source, backend)
    texts = [tokens(size, seed=size) for size in (45, 3, 30)]
    expected = [whole(decoder, text) for text in texts]
    rng = random.Random(7)
    for _ in range(4):
        cache = make_cache(decoder)
        for slot in rng.sample(range(3), 3):  # pages in another order each time
            cache.open(slot, 1)
        done = [0, 0, 0]
        found: list[list[Tensor]] = [[], [], []]
        _scatter(cache, rng)
        while any(d < len(t) for d, t in zip(done, texts, strict=True)):
            rows = []
            for slot, text in enumerate(texts):
                size = min(rng.choice([0, 1, 2, 5, 17]), len(text) - done[slot])
                if size:
                    rows.append(
                        rows_of(text[done[slot] : done[slot] + size], slot=slot, start=done[slot])
                    )
                    done[slot] += size
            if not rows:
                continue
            logits = forward(decoder, rows, cache)
            sizes = [len(row.token_ids) for row in rows]
            for row, logits_of in zip(rows, torch.split(logits, sizes), strict=True):
                found[row.slot].append(logits_of)
        for parts, wanted in zip(found, expected, strict=True):
            assert torch.equal(torch.cat(parts), wanted)


def _scatter(cache: SoleCache, rng: random.Random) -> None:
    """Give the slots more pages, one at a time and in turn, so that none has them in a row."""
    free = list(range(3, cache.num_pages))
    rng.shuffle(free)
    for i, page in enumerate(free):
        cache.hold(i % 3, [page])


@pytest.mark.parametrize("kind", [WeightFormat.FLOAT32, WeightFormat.INT4])
@pytest.mark.parametrize("window", [None, 9])
def test_each_node_of_a_tree_has_the_bits_of_its_path(
    backend: NativeBackend, kind: WeightFormat, window: int | None
) -> None:
    model, source = stored_model(kind, "mistral")
    config = model.config
    object.__setattr__(config, "sliding_window", window)
    decoder = Decoder(config, source, SoloGroup(), device=CPU, backend=backend)
    parents = (-1, 0, 0, 2, -1, 3, 4)
    nodes = tokens(len(parents), seed=3)
    cache = make_cache(decoder)
    cache.open(0, 45 + len(nodes))
    forward(decoder, [rows_of(PROMPT)], cache)
    tree = SequenceRows(slot=0, start=45, token_ids=nodes, num_logits=len(nodes), parents=parents)
    logits = forward(decoder, [tree], cache)
    # The same tree, one forward a level or so: its first nodes are in the cache then.
    for stop in (2, 5, 7):
        start = {2: 0, 5: 2, 7: 5}[stop]
        grown = replace(
            tree,
            start=45 + start,
            token_ids=nodes[start:stop],
            num_logits=stop - start,
            parents=parents[:stop],
        )
        assert torch.equal(forward(decoder, [grown], cache), logits[start:stop])
    for node in range(len(parents)):
        path = [node]
        while parents[path[0]] >= 0:
            path.insert(0, parents[path[0]])
        text = [*PROMPT, *(nodes[i] for i in path)]
        assert torch.equal(logits[node], whole(decoder, text)[-1])


@pytest.mark.parametrize(("kind", "options"), FULL_FORMS)
def test_the_number_of_ranks_changes_no_bit(
    backend: NativeBackend, kind: WeightFormat, options: dict[str, bool]
) -> None:
    model, source = stored_model(kind, "llama", **options)
    expected = whole(decoder_of(model, source, backend), PROMPT)

    def part(group: RankThread) -> Tensor:
        return whole(decoder_of(model, source, backend, group), PROMPT)

    for size in (2, 3):
        assert torch.equal(torch.cat(on_ranks(size, part), dim=1), expected)


def test_tied_matrices_are_held_once(backend: NativeBackend) -> None:
    model, source = stored_model(WeightFormat.INT8)
    matrix = source.read_matrix("lm_head.weight", 0, 0, 101)
    head, look_up = backend.ends(torch.ones(96), 1e-5, matrix, matrix)
    ids = torch.tensor([3, 100])
    expected = StoredSource.dequantized(source).read("lm_head.weight")[ids]
    assert torch.equal(look_up(ids), expected)
    assert look_up.__self__ is head.matrix  # type: ignore[attr-defined]  # a bound method
    assert model.config.vocab_size == 101
