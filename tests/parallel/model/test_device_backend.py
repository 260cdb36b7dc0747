"""The device's backend equals torch's, and a row's bits depend on nothing but the row."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from parallel.device_kernels.kernel_loader import load_kernels
from parallel.device_kernels.plain_kernels import PlainKernels
from parallel.device_kernels.step_kernels import StepKernels
from parallel.group import Group
from parallel.model.backend import Backend, ForwardInputs
from parallel.model.backend_choice import choose_backend
from parallel.model.cache import PagedCache
from parallel.model.device_backend import DeviceBackend, HostWords
from parallel.model.torch_backend import TorchBackend
from parallel.model.transformer import Decoder
from tests.support.device_families import FAMILIES, model_of
from tests.support.device_forwards import (
    FORWARDS,
    KEPT,
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


@pytest.mark.parametrize("family", ["llama", pytest.param("gemma3_text", marks=pytest.mark.slow)])
def test_logits_of_the_triton_kernels_equal_those_of_torch(family: str) -> None:
    model = model_of(family, num_layers=1)
    backend = DeviceBackend(triton_kernels(), torch.float32)
    decoder = decoder_of(model, backend, source=model.source.on(DEVICE), device=DEVICE)
    found = three_forwards(decoder, cache_of(decoder, device=DEVICE))
    torch.testing.assert_close(found.cpu(), torch_logits(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_alone_and_in_any_batch(dtype: torch.dtype) -> None:
    model = model_of("qwen3", num_layers=1)
    source = model.source.on(DEVICE, dtype)
    backend = DeviceBackend(triton_kernels(), dtype)
    decoder = decoder_of(model, backend, source=source, device=DEVICE)
    with torch.inference_mode():
        together = decoder.forward(PROMPTS, cache_of(decoder, dtype=dtype, device=DEVICE))
        cache = cache_of(decoder, dtype=dtype, device=DEVICE)
        chunks = [range(7), range(7, 8), range(8, 9)]
        alone = [
            decoder.forward(
                [rows_of(OTHER[chunk.start : chunk.stop], slot=1, start=chunk.start)], cache
            )
            for chunk in chunks
        ]
    assert torch.equal(together[len(TEXT) :], torch.cat(alone))


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
    wrapped: Callable[[Decoder, ForwardInputs], Tensor] = lambda d, inputs: d.compute(inputs),
) -> Recording:
    """Run three forwards on fake CUDA tensors, as they run on a device, and return what ran."""
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
            logits = wrapped(decoder, decoder.prepare(rows, cache))
            assert logits.is_cuda
            assert logits.dtype == torch.float32
            assert len(logits) == sum(row.num_logits for row in rows)
    return recording


@pytest.mark.parametrize("rank", [None, 0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_forward_uploads_one_buffer_and_waits_for_nothing(family: str, rank: int | None) -> None:
    recording = fake_forwards(family, rank=rank)
    assert (recording.uploads, recording.downloads) == (3, 0)


def test_a_wait_in_a_forward_is_found() -> None:
    def waits(decoder: Decoder, inputs: ForwardInputs) -> Tensor:
        x_RE = decoder.embed(inputs)
        assert x_RE[0, 0].item() is not None
        return decoder.finish(x_RE, inputs)

    with pytest.raises(HostSync):
        fake_forwards("llama", wrapped=waits)


def test_a_tensor_of_the_host_in_a_forward_is_found() -> None:
    def mixes(decoder: Decoder, inputs: ForwardInputs) -> Tensor:
        return decoder.compute(replace(inputs, token_ids=torch.zeros(21, dtype=torch.int32)))

    with pytest.raises(DeviceMismatch):
        fake_forwards("llama", wrapped=mixes)
