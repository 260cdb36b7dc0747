"""A whole step by the kernels computes what transformers does, and never waits for the device."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from parallel.batch import SequenceRows, TokenDraw, path_to
from parallel.decoding.rng import request_key
from parallel.decoding.sampling import sample
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import RngKey, SamplingParams
from parallel.device_kernels.kernel_loader import load_kernels
from parallel.device_kernels.plain_kernels import PlainKernels
from parallel.device_step.step_buckets import StepBuckets, StepLimits
from parallel.device_step.step_packing import SequenceStep, needed_shape, pack
from parallel.device_step.step_shape import StepShape
from runtime.models.families.registry import FAMILIES as SUPPORTED
from tests.support.device_decoder import DeviceDecoder, StepResult, words_of
from tests.support.device_families import FAMILIES, model_of
from tests.support.fake_cuda import HostSync, Recording, fake_cuda
from tests.support.fake_model import FakeGroup, FakeSource
from tests.support.kernel_device import DEVICE
from tests.support.tiny_transformer import (
    TinyModel,
    tokens,
)

PAGE_SIZE = 4
TREE = (-1, 0, 0, -1, 3)
VOCABULARY = 67


def run(
    decoder: DeviceDecoder, steps: Sequence[SequenceStep], shape: StepShape | None
) -> StepResult:
    shape = shape or needed_shape(steps, decoder.rules)
    buffer = words_of(shape)
    pack(steps, shape, decoder.rules, buffer)
    with torch.inference_mode():
        return decoder.step(torch.from_numpy(buffer), shape)


def two_sequences() -> tuple[list[SequenceStep], list[SequenceStep]]:
    """Return a step that reads two prompts, and one with a tree, a chain and another prompt."""
    text, other, nodes = (tokens(count, seed=count, vocab_size=VOCABULARY) for count in (12, 9, 5))
    draw = TokenDraw(key=RngKey(seed=7, request=request_key(text, 0)), position=0, temperature=0.8)
    first = SequenceStep(
        rows=SequenceRows(slot=0, start=0, token_ids=text, num_logits=1), pages=[9, 1, 4, 7, 5]
    )
    second = SequenceStep(
        rows=SequenceRows(slot=1, start=0, token_ids=other, num_logits=0), pages=[2, 8, 0]
    )
    tree = replace(
        first,
        rows=SequenceRows(
            slot=0, start=12, token_ids=(text[0], *nodes), num_logits=6, parents=TREE, draw=draw
        ),
    )
    chain = replace(
        second, rows=SequenceRows(slot=1, start=8, token_ids=other[-1:] + nodes[:3], num_logits=4)
    )
    third = SequenceStep(
        rows=SequenceRows(slot=2, start=0, token_ids=other[:3], num_logits=1), pages=[6]
    )
    return [first, second], [tree, chain, third]


def expected_logits(model: TinyModel) -> Tensor:
    """Return transformers' logits of the second step's scored rows."""
    before, after = two_sequences()
    text, other = before[0].rows.token_ids, before[1].rows.token_ids
    tree, chain, third = (step.rows.token_ids for step in after)
    rows = [
        model.expected([*text, tree[0], *(tree[node + 1] for node in path_to(TREE, last))])[-1]
        for last in range(-1, len(TREE))
    ]
    rows += [*model.expected([*other[:-1], *chain])[-4:], model.expected(third)[-1]]
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *((family, "plain") for family in FAMILIES),
        ("gemma3_text", "triton"),  # it has most of what the others have
        *(
            pytest.param(family, "triton", marks=pytest.mark.slow)
            for family in FAMILIES
            if family != "gemma3_text"
        ),
    ],
)
def test_a_step_over_pages_scores_as_transformers(family: str, kind: str) -> None:
    if kind == "triton":
        pytest.importorskip("triton")
    kernels = PlainKernels() if kind == "plain" else load_kernels()
    model = model_of(family)
    device = "cpu" if kind == "plain" else DEVICE
    decoder = DeviceDecoder(
        model.config, model.source, kernels, device, page_size=PAGE_SIZE, num_pages=10
    )
    before, after = two_sequences()
    first = run(decoder, before, None)
    expected = model.expected(before[0].rows.token_ids)[-1:]
    torch.testing.assert_close(first.logits.cpu(), expected, atol=1e-4, rtol=1e-4)
    padded = replace(needed_shape(after, decoder.rules), rows=17, tiles=17, scored=14)
    second = run(decoder, after, padded)
    expected = expected_logits(model)
    torch.testing.assert_close(second.logits[:11].cpu(), expected, atol=1e-4, rtol=1e-4)
    check_verdicts(second, after)


def check_verdicts(result: StepResult, steps: Sequence[SequenceStep]) -> None:
    """Compare each verdict with what the CPU samples from the same logits."""
    logits, first = result.logits.cpu(), 0
    for verdict, step in zip(result.found.verdicts.tolist(), steps, strict=True):
        rows = step.rows
        ids = rows.token_ids[len(rows.token_ids) - rows.num_logits + 1 :]
        parents = rows.parents or tuple(range(-1, len(ids) - 1))
        node, path = -1, list[int]()
        while True:
            row = ScoreRow(logits[first + node + 1], None)
            draw = rows.draw or TokenDraw(key=RngKey(seed=0, request=0), position=0)
            params = SamplingParams(temperature=draw.temperature)
            token = sample(row, params, draw.key, draw.position + len(path))
            fits = [n for n, p in enumerate(parents) if p == node and ids[n] == token]
            if not fits:
                break
            node = fits[0]
            path.append(node)
        assert verdict[: 2 + len(path)] == [len(path), token, *path]
        first += rows.num_logits


def fake_step(
    family: str,
    steps: Sequence[SequenceStep],
    *,
    num_layers: int = 2,
    rank: int | None = None,
    waits: bool = False,
) -> Recording:
    """Run a step on fake CUDA tensors, in its bucket, and return what it did.

    With a rank, the model is split over two.
    """
    model = model_of(family, num_layers)
    shapes = {name: tuple(t.shape) for name, t in model.reference.state_dict().items()}
    kernels = load_kernels()
    with fake_cuda() as recording:
        decoder = DeviceDecoder(
            model.config,
            FakeSource(shapes),
            kernels,
            "cuda",
            page_size=PAGE_SIZE,
            num_pages=400,
            dtype=torch.bfloat16,
            group=None if rank is None else FakeGroup(rank, 2),
        )
        rules = decoder.rules
        limits = StepLimits(
            rows=256,
            sequences=64,
            pages=80,
            nodes=7,
            kinds=len(rules.windows),
            tile_rows=rules.tile_rows,
        )
        shape = StepBuckets(limits).choose(needed_shape(steps, rules))
        assert shape is not None
        plan = torch.empty(shape.num_words, dtype=torch.int32, pin_memory=True)
        recording.launches.clear()
        recording.uploads = 0
        with torch.no_grad():
            result = decoder.step(plan, shape)
        if waits:
            result.drawn.words[0].item()
    return recording


def singles(count: int, *, start: int = 9) -> list[SequenceStep]:
    """Return single rows of several sequences."""
    rows = SequenceRows(slot=0, start=start, token_ids=(1,), num_logits=1)
    return [SequenceStep(rows=rows, pages=range(start // PAGE_SIZE + 1))] * count


def test_the_families_are_all_that_are_supported() -> None:
    assert set(FAMILIES) == set(SUPPORTED)


@pytest.mark.parametrize("rank", [None, 0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_neither_waits_for_the_device_nor_mixes_devices(
    family: str, rank: int | None
) -> None:
    pytest.importorskip("triton")
    for steps in (*two_sequences(), singles(3)):
        recording = fake_step(family, steps, rank=rank)
        assert (recording.uploads, recording.downloads) == (1, 1)


def test_a_step_with_a_wait_in_it_is_found() -> None:
    pytest.importorskip("triton")
    with pytest.raises(HostSync):
        fake_step("llama", singles(1), waits=True)


def test_a_layer_launches_nine_kernels_for_any_number_of_sequences() -> None:
    pytest.importorskip("triton")
    before, after = two_sequences()
    mixed = [*before, *after]  # prefill chunks, a tree and a chain
    for steps in (
        singles(1),
        before[:1],
        [*mixed, *singles(16 - len(mixed))],
        [*mixed, *singles(64 - len(mixed))],
    ):
        counts = [len(fake_step("llama", steps, num_layers=n).launches) for n in (1, 2, 3)]
        assert counts[1] - counts[0] == counts[2] - counts[1] == 9
        assert counts[0] - 9 <= 10, "what a step launches beside its layers"


def test_contexts_that_are_split_take_one_launch_more() -> None:
    pytest.importorskip("triton")
    counts = [len(fake_step("llama", singles(3, start=300), num_layers=n).launches) for n in (1, 2)]
    assert counts[1] - counts[0] == 10
