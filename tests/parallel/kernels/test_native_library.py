import ctypes
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from parallel.kernels import native_library as module
from parallel.kernels.native_library import (
    SWITCH,
    CMatrix,
    CNorm,
    NativeLibrary,
    load_library,
    native_library,
)
from parallel.kernels.packed_matrix import PackedMatrix, pack
from parallel.weights.stored_matrix import Matrix, as_float
from parallel.weights.weight_format import WeightFormat
from tests.support.stored_models import FORMS, FULL_FORMS, stored

INSTRUCTIONS = ("avx512_vnni", "avx2", "plain")
SHAPES = ((64, 96), (35, 64), (16, 32), (130, 320))


@pytest.fixture(params=INSTRUCTIONS)
def library(request: pytest.FixtureRequest) -> Iterator[NativeLibrary]:
    try:
        yield load_library(request.param)
    except OSError as error:
        pytest.skip(str(error))
    finally:
        load_library()


def product(library: NativeLibrary, matrix: PackedMatrix, x: Tensor, *, threads: int = 2) -> Tensor:
    out = torch.full((len(x), matrix.num_rows), torch.nan)
    parts = CMatrix.of(matrix, None)
    library.linear(ctypes.byref(parts), None, x.data_ptr(), len(x), out.data_ptr(), threads)
    return out


def weight(shape: tuple[int, int], kind: WeightFormat, **options: bool) -> Matrix:
    generator = torch.Generator().manual_seed(sum(shape))
    return stored(torch.randn(shape, generator=generator), kind, **options)


def inputs(num_rows: int, columns: int) -> Tensor:
    """Rows of different sizes, with a few large values as real activations have them."""
    generator = torch.Generator().manual_seed(columns)
    x = torch.randn(num_rows, columns, generator=generator)
    x *= torch.logspace(-3, 3, num_rows).unsqueeze(1)
    x[:, 5] *= 300
    return x


@pytest.mark.parametrize(("kind", "options"), FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_equal_float64(
    library: NativeLibrary, kind: WeightFormat, options: dict[str, bool], shape: tuple[int, int]
) -> None:
    matrix = weight(shape, kind, **options)
    x = inputs(11, shape[1])
    found = product(library, pack(matrix), x).double()
    numbers = as_float(matrix).double()
    expected = x.double() @ numbers.T
    # A value of a group is rounded to its largest by 2^-16 of it, a float32 sum by less.
    largest = x.abs().view(len(x), -1, 32).amax(dim=2).repeat_interleave(32, dim=1).double()
    bound = (largest @ numbers.abs().T) * 2.0**-16 + 1e-12
    if not kind.is_grouped:
        bound = (x.abs().double() @ numbers.abs().T) * 2.0**-20 + 1e-12
    assert ((found - expected).abs() <= bound).all()


@pytest.mark.parametrize(("kind", "options"), FULL_FORMS)
def test_a_row_has_the_same_bits_in_every_batch(
    library: NativeLibrary, kind: WeightFormat, options: dict[str, bool]
) -> None:
    matrix = pack(weight((112, 96), kind, **options))
    x = inputs(37, 96)
    whole = product(library, matrix, x)
    for threads in (1, 2, 3):
        for first, stop in [(0, 1), (36, 37), *pairwise((0, 2, 5, 9, 14, 20, 27, 37))]:
            part = product(library, matrix, x[first:stop].contiguous(), threads=threads)
            assert torch.equal(part, whole[first:stop]), (first, stop, threads)


@pytest.mark.parametrize(("kind", "options"), FULL_FORMS)
def test_avx2_and_avx512_give_the_same_bits(kind: WeightFormat, options: dict[str, bool]) -> None:
    matrix, x = pack(weight((64, 96), kind, **options)), inputs(13, 96)
    try:
        found = [product(load_library(name), matrix, x) for name in ("avx512_vnni", "avx2")]
    except OSError as error:
        pytest.skip(str(error))
    finally:
        load_library()
    assert torch.equal(*found)


def test_zero_and_tiny_rows_are_zero_and_finite(library: NativeLibrary) -> None:
    matrix = pack(weight((32, 64), WeightFormat.INT4, has_mins=True))
    x = torch.zeros(3, 64)
    x[1] = 1e-38
    x[2, :32] = 3e37
    out = product(library, matrix, x)
    assert torch.equal(out[0], torch.zeros(32))
    assert out[:2].isfinite().all()


def test_the_norm_equals_float64(library: NativeLibrary) -> None:
    for size in (5, 16, 96, 101):
        x, scale = inputs(7, max(size, 6))[:, :size].contiguous(), torch.randn(size)
        out, addend = torch.full_like(x, torch.nan), torch.randn(7, size)
        norm = CNorm(scale.data_ptr(), 1e-5)
        library.norm(
            x.data_ptr(), ctypes.byref(norm), addend.data_ptr(), out.data_ptr(), 7, size, 1
        )
        wide = x.double()
        expected = wide / (wide.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * scale + addend
        torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


def test_many_threads_at_once_share_the_library(library: NativeLibrary) -> None:
    matrix, x = pack(weight((320, 96), WeightFormat.INT8)), inputs(9, 96)
    expected = product(library, matrix, x)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: product(library, matrix, x, threads=3), range(40)))
    assert all(torch.equal(out, expected) for out in found)


def test_a_library_of_other_sources_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "sources_version", lambda: "0")
    with pytest.raises(
        OSError, match=r"built from other sources: install Paceline again|not built"
    ):
        load_library()


def test_unknown_instructions_are_rejected() -> None:
    with pytest.raises(OSError, match=r"does not have the instructions 'avx1024'|not built"):
        load_library("avx1024")


def test_the_environment_turns_the_library_off_and_its_absence_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    native_library.cache_clear()
    monkeypatch.setenv(SWITCH, "torch")
    assert native_library() is None
    native_library.cache_clear()
    monkeypatch.setenv(SWITCH, "avx1024")
    with caplog.at_level(logging.WARNING):
        assert native_library() is None
    assert "torch's operators, which is slower" in caplog.text
    native_library.cache_clear()


def test_loops_of_many_sizes_in_turn_share_no_items(library: NativeLibrary) -> None:
    """A thread that leaves one loop late must not claim an item of the next, longer one."""
    shapes = ((48, 32), (640, 32), (160, 32), (1600, 32), (96, 32))
    matrices = [pack(weight(shape, WeightFormat.INT8)) for shape in shapes]
    parts = [CMatrix.of(matrix, None) for matrix in matrices]
    x = inputs(3, 32)
    alone = [product(library, matrix, x, threads=1) for matrix in matrices]
    outs = [torch.empty_like(out) for out in alone]
    for turn in range(1000):
        at = turn % len(shapes)
        outs[at].fill_(torch.nan)
        threads = 6 if turn % 3 else 2
        library.linear(ctypes.byref(parts[at]), None, x.data_ptr(), 3, outs[at].data_ptr(), threads)
        assert torch.equal(outs[at], alone[at])
