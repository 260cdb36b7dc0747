"""Native calls report their parts to the thread that asks, and compute the same."""

import threading
import time

import pytest
import torch

from parallel.kernels.kernel_clocks import KernelClocks, KernelPart
from parallel.kernels.native_library import NativeLibrary, native_library
from parallel.model.native_backend import NativeBackend
from parallel.model.transformer import Decoder
from parallel.weights.weight_format import WeightFormat
from tests.support.stored_models import stored_model
from tests.support.tiny_transformer import (
    CPU,
    RankThread,
    make_cache,
    on_ranks,
    rows_of,
    score,
    tokens,
)


@pytest.fixture
def library() -> NativeLibrary:
    found = native_library()
    if found is None:
        pytest.skip("the native kernels are not built here")
    return found


def test_every_part_of_a_forward_is_timed_and_its_bits_stay(library: NativeLibrary) -> None:
    model, source = stored_model(WeightFormat.INT4)

    def run(group: RankThread) -> tuple[torch.Tensor, dict[KernelPart, float], float]:
        decoder = Decoder(model.config, source, group, device=CPU, backend=NativeBackend(library))
        expected = score(decoder, tokens(40))
        start_s = time.monotonic()
        with KernelClocks(library) as clocks:
            found = score(decoder, tokens(40))
        spent_s = time.monotonic() - start_s
        seconds = clocks.seconds
        score(decoder, tokens(40))
        assert clocks.seconds == seconds  # nothing is counted after the context
        assert torch.equal(found, expected)
        return found, seconds, spent_s

    for size in (1, 2):  # all layers in one call; a call for each block
        for _, seconds, spent_s in on_ranks(size, run):
            assert all(seconds[part] > 0 for part in KernelPart)
            assert sum(seconds.values()) <= spent_s


def test_the_last_product_alone_is_the_heads(library: NativeLibrary) -> None:
    model, source = stored_model(WeightFormat.INT8)
    decoder = on_ranks(
        1, lambda g: Decoder(model.config, source, g, device=CPU, backend=NativeBackend(library))
    )[0]
    cache = make_cache(decoder)
    cache.open(0, 3)
    inputs = decoder.prepare([rows_of(tokens(3))], cache)
    with KernelClocks(library) as clocks:
        decoder.finish(torch.ones(3, model.config.hidden_size), inputs)
    assert clocks.seconds[KernelPart.HEAD] > 0
    assert clocks.seconds[KernelPart.BETWEEN] > 0
    assert clocks.seconds[KernelPart.PRODUCTS] == clocks.seconds[KernelPart.ATTENTION] == 0


def test_calls_of_another_thread_are_not_counted(library: NativeLibrary) -> None:
    model, source = stored_model(WeightFormat.BFLOAT16)
    decoder = Decoder(
        model.config,
        source,
        on_ranks(1, lambda group: group)[0],
        device=CPU,
        backend=NativeBackend(library),
    )
    with KernelClocks(library) as clocks:
        thread = threading.Thread(target=score, args=(decoder, tokens(9)))
        thread.start()
        thread.join()
    assert set(clocks.seconds.values()) == {0.0}
