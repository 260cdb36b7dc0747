"""Rows of several adapters and of none in one forward, against the models that peft merges."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from parallel.batch import SequenceRows
from parallel.device_kernels.plain_kernels import PlainKernels
from parallel.group import Group, SoloGroup
from parallel.kernels.native_library import load_library
from parallel.model.backend import Backend
from parallel.model.cache import SoleCache
from parallel.model.device_backend import DeviceBackend
from parallel.model.low_rank import AdaptedPart, Adapter, LowRank, shard_adapter
from parallel.model.native_backend import NativeBackend
from parallel.model.torch_backend import TorchBackend
from parallel.model.transformer import Decoder
from parallel.weights.weight_format import WeightFormat
from tests.support.peft_adapters import random_adapter
from tests.support.stored_models import stored_model
from tests.support.tiny_transformer import (
    CPU,
    RankThread,
    TinyModel,
    make_cache,
    on_ranks,
    tiny_model,
    tokens,
)

PARTS = (
    ["q_proj", "v_proj"],
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    ["o_proj", "down_proj"],
)
TEXTS = [tokens(size, seed=size) for size in (23, 9, 30, 17, 5)]
OWNERS = ["a0", "", "a1", "a2", "a1"]


@pytest.fixture(params=["avx512_vnni", "avx2", "plain", "torch", "device"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "torch":
        yield TorchBackend(torch.float32)
        return
    if request.param == "device":
        yield DeviceBackend(PlainKernels(), torch.float32)
        return
    try:
        yield NativeBackend(load_library(request.param))
    except OSError as error:
        pytest.skip(str(error))
    finally:
        load_library()


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> "Case":
    return Case(tiny_model(request.param), tmp_path_factory.mktemp("adapters"))


class Case:
    """A model, three adapters of it, and what each text's own model gives for it."""

    def __init__(self, model: TinyModel, root: Path) -> None:
        self.model = model
        self.adapters: list[Adapter] = []
        self.expected: list[Tensor] = []
        references = {"": model.reference}
        for number, parts in enumerate(PARTS):
            name = f"a{number}"
            adapter, merged = random_adapter(
                model, root / name, seed=number, r=3 + 5 * number, target_modules=parts
            )
            self.adapters.append(adapter)
            references[name] = merged
        for text, owner in zip(TEXTS, OWNERS, strict=True):
            with torch.inference_mode():
                logits: Tensor = references[owner](torch.tensor([text]), use_cache=False).logits
            self.expected.append(logits[0])

    def decoder(self, backend: Backend, group: Group | None = None) -> Decoder:
        decoder = Decoder(
            self.model.config, self.model.source, group or SoloGroup(), device=CPU, backend=backend
        )
        for adapter in self.adapters:
            decoder.add_adapter(adapter)
        return decoder


def open_all(decoder: Decoder) -> SoleCache:
    cache = make_cache(decoder)
    for slot, text in enumerate(TEXTS):
        cache.open(slot, len(text))
    return cache


def row(slot: int, start: int = 0, size: int | None = None) -> SequenceRows:
    ids = TEXTS[slot][start : None if size is None else start + size]
    return SequenceRows(
        slot=slot, start=start, token_ids=ids, num_logits=len(ids), adapter=OWNERS[slot]
    )


def scored(decoder: Decoder, rows: Sequence[SequenceRows], cache: SoleCache) -> list[Tensor]:
    with torch.inference_mode():
        logits = decoder.forward(rows, cache)
    return list(torch.split(logits, [len(one.token_ids) for one in rows]))


def together(decoder: Decoder) -> list[Tensor]:
    return scored(decoder, [row(slot) for slot in range(len(TEXTS))], open_all(decoder))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_text_gets_the_logits_of_its_merged_model(
    backend: Backend, case: Case, size: int
) -> None:
    parts = on_ranks(size, lambda group: together(case.decoder(backend, group)))
    for index, expected in enumerate(case.expected):
        found = torch.cat([part[index] for part in parts], dim=1)
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    base = case.model.expected(TEXTS[0])
    assert not torch.allclose(case.expected[0], base, atol=0.05)


def test_a_row_has_the_same_bits_alone_and_beside_any_others(case: Case) -> None:
    """Of the native kernels: torch's own products have not that property."""
    decoder = case.decoder(NativeBackend(load_library()))
    expected = together(decoder)
    for slot in range(len(TEXTS)):
        cache = open_all(decoder)
        assert torch.equal(scored(decoder, [row(slot)], cache)[0], expected[slot])
    rng = random.Random(3)
    for _ in range(3):
        cache, done = open_all(decoder), [0] * len(TEXTS)
        found: list[list[Tensor]] = [[] for _ in TEXTS]
        while any(d < len(t) for d, t in zip(done, TEXTS, strict=True)):
            sizes = {s: rng.choice([0, 1, 2, 7]) for s in rng.sample(range(len(TEXTS)), 4)}
            rows = [
                row(s, done[s], size)
                for s, size in sizes.items()
                if size and done[s] < len(TEXTS[s])
            ]
            if not rows:
                continue
            for one, logits in zip(rows, scored(decoder, rows, cache), strict=True):
                found[one.slot].append(logits)
                done[one.slot] += len(one.token_ids)
        for part, wanted in zip(found, expected, strict=True):
            assert torch.equal(torch.cat(part), wanted)


def test_rows_without_an_adapter_have_the_bits_of_the_model_alone(
    backend: Backend, case: Case
) -> None:
    plain = Decoder(case.model.config, case.model.source, SoloGroup(), device=CPU, backend=backend)
    base = [
        SequenceRows(slot=slot, start=0, token_ids=text, num_logits=len(text))
        for slot, text in enumerate(TEXTS)
    ]
    alone = scored(plain, base, open_all(plain))
    decoder = case.decoder(backend)
    assert torch.equal(together(decoder)[1], alone[1])
    for found, wanted in zip(scored(decoder, base, open_all(decoder)), alone, strict=True):
        assert torch.equal(found, wanted)


def test_the_number_of_ranks_changes_no_bit(tmp_path: Path) -> None:
    model, _ = stored_model(WeightFormat.FLOAT32)  # each rank has whole groups of 32 columns
    case, backend = Case(model, tmp_path), NativeBackend(load_library())
    expected = together(case.decoder(backend))

    def part(group: RankThread) -> list[Tensor]:
        return together(case.decoder(backend, group))

    for size in (2, 3):
        parts = on_ranks(size, part)
        for index, wanted in enumerate(expected):
            assert torch.equal(torch.cat([one[index] for one in parts], dim=1), wanted)


def test_an_adapter_replaced_under_its_name_counts_from_the_next_forward(case: Case) -> None:
    decoder = case.decoder(NativeBackend(load_library()))
    first = together(decoder)[0]
    decoder.add_adapter(Adapter(name="a0", layers=case.adapters[1].layers))
    assert not torch.equal(together(decoder)[0], first)
    decoder.add_adapter(case.adapters[0])
    assert torch.equal(together(decoder)[0], first)
    decoder.remove_adapter("a0")
    decoder.remove_adapter("a0")
    with pytest.raises(KeyError, match="a0"):
        together(decoder)


def test_an_adapter_of_another_shape_is_rejected_by_the_name_of_its_layer(case: Case) -> None:
    decoder, config = case.decoder(NativeBackend(load_library())), case.model.config
    good = case.adapters[0].layers
    with pytest.raises(ValueError, match=f"1 layers, the model {config.num_layers}"):
        decoder.add_adapter(Adapter(name="x", layers=good[:1]))
    one = good[1][AdaptedPart.QUERY]
    for bad, message in (
        (LowRank(one.down[:, 1:], one.up), r"layers.1.self_attn.q_proj.lora_A has the shape"),
        (LowRank(one.down, one.up[1:]), r"layers.1.self_attn.q_proj.lora_B has the shape"),
        (LowRank(one.down[1:], one.up), r"layers.1.self_attn.q_proj.lora_B has the shape"),
    ):
        layers = (good[0], {**good[1], AdaptedPart.QUERY: bad}, *good[2:])
        with pytest.raises(ValueError, match=message):
            shard_adapter(
                Adapter(name="x", layers=layers),
                config,
                decoder.stack.heads,
                SoloGroup(),
                device=CPU,
            )
