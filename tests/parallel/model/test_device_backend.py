"""The device's backend equals torch's, and a row's bits depend on nothing but the row."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from parallel.batch import SequenceRows
from parallel.device_kernels.kernel_loader import load_kernels
from parallel.device_kernels.plain_kernels import PlainKernels
from parallel.device_kernels.step_kernels import StepKernels
from parallel.group import Group
from parallel.model.backend import Backend, ForwardInputs, ForwardOutputs
from parallel.model.backend_choice import choose_backend
from parallel.model.cache import PagedCache
from parallel.model.device_backend import DeviceBackend, HostWords
from parallel.model.torch_backend import TorchBackend
from parallel.model.transformer import Decoder
from tests.support.device_families import FAMILIES, model_of
from tests.support.device_forwards import (
    FORWARDS,
    KEPT,
    NODES,
    OTHER,
    PROMPTS,
    TEXT,
    cache_of,
    decoder_of,
)
from tests.support.fake_cuda import DeviceMismatch, HostSync, Recording, fake_cuda
from tests.support.fake_model import FakeGroup, FakeSource
from tests.support.kernel_device import DEVICE
from tests.support.tiny_transformer import TinyModel, on_ranks, rows_of


def triton_kernels() -> StepKernels:
    pytest.importorskip("triton")
    return load_kernels()


def three_forwards(decoder: Decoder, cache: PagedCache, *, width: int = 1) -> Tensor:
    """Return the logits of prompts, then a tree and a chain, then what follows a tree's path."""
    with torch.inference_mode():
        return torch.cat([decoder.forward(rows, cache, width=width) for rows in FORWARDS])


def torch_logits(model: TinyModel) -> Tensor:
    decoder = decoder_of(model, TorchBackend(torch.float32))
    return three_forwards(decoder, cache_of(decoder))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_of_torch(family: str) -> None:
    model = model_of(family)
    decoder = decoder_of(model, DeviceBackend(PlainKernels(), torch.float32))
    found = three_forwards(decoder, cache_of(decoder))
    torch.testing.assert_close(found, torch_logits(model), atol=1e-4, rtol=1e-4)


@pytest.mark.slow  # a whole step of these kernels is in tests/parallel/device_step
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_logits_of_the_triton_kernels_equal_those_of_torch(family: str) -> None:
    model = model_of(family, num_layers=1)
    backend = DeviceBackend(triton_kernels(), torch.float32)
    decoder = decoder_of(model, backend, source=model.source.on(DEVICE), device=DEVICE)
    found = three_forwards(decoder, cache_of(decoder, device=DEVICE))
    torch.testing.assert_close(found.cpu(), torch_logits(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float32, marks=pytest.mark.slow)]
)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(dtype: torch.dtype) -> None:
    model = model_of("qwen3", num_layers=1)
    source = model.source.on(DEVICE, dtype)
    backend = DeviceBackend(triton_kernels(), dtype)
    decoder = decoder_of(model, backend, source=source, device=DEVICE)
    with torch.inference_mode():
        batch = [rows_of(TEXT[:4]), rows_of(OTHER[:5], slot=1)]
        together = decoder.forward(batch, cache_of(decoder, dtype=dtype, device=DEVICE))
        cache = cache_of(decoder, dtype=dtype, device=DEVICE)
        chunks = [range(3), range(3, 4), range(4, 5)]
        alone = [
            decoder.forward(
                [rows_of(OTHER[chunk.start : chunk.stop], slot=1, start=chunk.start)], cache
            )
            for chunk in chunks
        ]
    assert torch.equal(together[4:], torch.cat(alone))


def test_ranks_of_two_compute_what_one_does() -> None:
    model = model_of("gemma3_text")

    def logits(group: Group) -> Tensor:
        decoder = decoder_of(model, DeviceBackend(PlainKernels(), torch.float32), group)
        return three_forwards(decoder, cache_of(decoder))

    expected = torch_logits(model)
    found = torch.cat(on_ranks(2, logits), dim=1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("width", [1, 2])
def test_layers_run_in_parallel_as_torch_runs_them(width: int) -> None:
    model = model_of("llama", num_layers=3)

    def logits(backend: Backend) -> Tensor:
        decoder = decoder_of(model, backend, layer_parallel_from=0)
        return three_forwards(decoder, cache_of(decoder), width=width)

    found = logits(DeviceBackend(PlainKernels(), torch.float32))
    expected = logits(TorchBackend(torch.float32))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_kept_layer_reads_its_own_cache() -> None:
    model = model_of("llama", num_layers=3)

    def logits(backend: Backend) -> Tensor:
        decoder = decoder_of(model, backend).keeping([0, 2])
        return three_forwards(decoder, cache_of(decoder))

    found = logits(DeviceBackend(PlainKernels(), torch.float32))
    expected = logits(TorchBackend(torch.float32))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_tree_grows_forward_by_forward_as_with_torch() -> None:
    model = model_of("gemma3_text")
    first = SequenceRows(slot=0, start=12, token_ids=NODES[:3], num_logits=3, parents=(-1, -1, 0))
    grown = replace(first, start=15, token_ids=NODES[3:], num_logits=2, parents=(-1, -1, 0, 2, 1))

    def logits(backend: Backend) -> Tensor:
        decoder = decoder_of(model, backend)
        cache = cache_of(decoder)
        with torch.inference_mode():
            return torch.cat(
                [decoder.forward([rows], cache) for rows in (PROMPTS[0], first, grown)]
            )

    found = logits(DeviceBackend(PlainKernels(), torch.float32))
    torch.testing.assert_close(found, logits(TorchBackend(torch.float32)), atol=1e-4, rtol=1e-4)


def test_a_gpu_gets_the_kernels_and_a_cpu_does_not() -> None:
    pytest.importorskip("triton")
    assert isinstance(choose_backend(torch.device("cuda"), torch.bfloat16), DeviceBackend)
    assert not isinstance(choose_backend(torch.device("cpu"), torch.bfloat16), DeviceBackend)


def test_moves_beyond_the_sequence_are_rejected() -> None:
    decoder = decoder_of(model_of("llama"), DeviceBackend(PlainKernels(), torch.float32))
    cache = cache_of(decoder)
    with torch.inference_mode():
        decoder.forward(PROMPTS, cache)
        with pytest.raises(ValueError, match="slot 0 holds 12 tokens: cannot keep"):
            decoder.forward([replace(KEPT[0], moves=(13, 15))], cache)


def fake_words(num_words: int) -> HostWords:
    """Return memory for a plan whose values a fake upload does not need."""
    tensor = torch.empty(num_words, dtype=torch.int32, pin_memory=True)
    return HostWords(np.empty(num_words, dtype=np.int32), tensor)


def fake_forwards(
    family: str,
    *,
    rank: int | None = None,
    wrapped: Callable[[Decoder, ForwardInputs], ForwardOutputs] = Decoder.outputs,
) -> Recording:
    """Run three steps of a rank on fake CUDA tensors, up to its verdicts; return what ran."""
    model = model_of(family)
    shapes = {name: tuple(t.shape) for name, t in model.reference.state_dict().items()}
    kernels = triton_kernels()
    with fake_cuda() as recording, torch.no_grad():
        decoder = decoder_of(
            model,
            DeviceBackend(kernels, torch.bfloat16, fake_words),
            None if rank is None else FakeGroup(rank, 2),
            source=FakeSource(shapes),
            device="cuda",
        )
        cache = cache_of(decoder, dtype=torch.bfloat16, device="cuda")
        recording.uploads = recording.downloads = 0
        for rows in FORWARDS:
            outputs = wrapped(decoder, decoder.prepare(rows, cache))
            assert outputs.logits.is_cuda
            assert outputs.logits.dtype == torch.float32
            assert outputs.drawn is not None
            drawn = outputs.drawn.cpu()
            assert drawn.tokens.dtype == torch.int32
            num_scored = sum(row.num_logits for row in rows)
            assert len(outputs.logits) == len(drawn.tokens) == num_scored
            assert len(drawn.verdicts) == len(rows)
    return recording


@pytest.mark.parametrize("rank", [None, 0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_uploads_one_buffer_and_waits_for_its_verdicts_alone(
    family: str, rank: int | None
) -> None:
    recording = fake_forwards(family, rank=rank)
    assert (recording.uploads, recording.downloads) == (3, 3), "of three steps"


def test_a_wait_in_a_forward_is_found() -> None:
    def waits(decoder: Decoder, inputs: ForwardInputs) -> ForwardOutputs:
        x_RE = decoder.embed(inputs)
        assert x_RE[0, 0].item() is not None
        return ForwardOutputs(decoder.finish(x_RE, inputs))

    with pytest.raises(HostSync):
        fake_forwards("llama", wrapped=waits)


def test_a_tensor_of_the_host_in_a_forward_is_found() -> None:
    def mixes(decoder: Decoder, inputs: ForwardInputs) -> ForwardOutputs:
        return decoder.outputs(replace(inputs, token_ids=torch.zeros(21, dtype=torch.int32)))

    with pytest.raises(DeviceMismatch):
        fake_forwards("llama", wrapped=mixes)
