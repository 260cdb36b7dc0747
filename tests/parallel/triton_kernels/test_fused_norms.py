"""Norms and gates equal their definitions in float64, and a row's bits are its own."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from parallel.device_kernels.plain_kernels import PlainKernels
from parallel.device_kernels.step_kernels import StepKernels
from parallel.triton_kernels.kernel_set import TritonKernels
from tests.support.kernel_device import DEVICE

KERNELS = TritonKernels()
BOUNDS = {torch.float32: 3e-6, torch.bfloat16: 3e-2, torch.float16: 4e-3}
EPS = 1e-5


def numbers(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def rms_norm(x: Tensor, weight: Tensor, adds_one: bool) -> Tensor:
    """Return the norm by torch's definition, in float64."""
    weight = weight.double() + int(adds_one)
    return F.rms_norm(x.double(), weight.shape, weight, EPS)


def normed(kernels: StepKernels, x: Tensor, weight: Tensor, adds_one: bool, device: str) -> Tensor:
    out = torch.full_like(x, torch.nan, device=device)
    kernels.norm(x.to(device), weight.to(device), out, eps=EPS, adds_one=adds_one)
    return out.cpu()


def added(
    kernels: StepKernels, x: Tensor, stream: Tensor, weights: Tensor, inner: bool, device: str
) -> tuple[Tensor, Tensor]:
    """Return the stream after adding x, and the stream normalized."""
    stream, out = stream.clone().to(device), torch.full_like(x, torch.nan, device=device)
    kernels.add_and_norm(
        x.to(device),
        stream,
        weights[0].to(device),
        out,
        eps=EPS,
        inner_weight_E=weights[1].to(device) if inner else None,
    )
    return stream.cpu(), out.cpu()


def gated(kernels: StepKernels, gate_up: Tensor, gelu: bool, device: str) -> Tensor:
    rows, columns = gate_up.shape
    out = torch.full((rows, columns // 2), torch.nan, dtype=gate_up.dtype, device=device)
    kernels.gate(gate_up.to(device), out, gelu=gelu)
    return out.cpu()


KERNEL_SETS = [
    pytest.param(KERNELS, DEVICE, id="triton"),
    pytest.param(PlainKernels(), "cpu", id="plain"),
]


@pytest.mark.parametrize(("kernels", "device"), KERNEL_SETS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("adds_one", [False, True])
@pytest.mark.parametrize("size", [576, 3000])
def test_a_norm_is_that_of_torch(
    kernels: StepKernels, device: str, dtype: torch.dtype, adds_one: bool, size: int
) -> None:
    x, weight = numbers(5, size, dtype=dtype), numbers(size, dtype=dtype, seed=1)
    out = normed(kernels, x, weight, adds_one, device)
    expected = rms_norm(x, weight, adds_one)
    torch.testing.assert_close(out.double(), expected, atol=BOUNDS[dtype], rtol=BOUNDS[dtype])


@pytest.mark.parametrize(("kernels", "device"), KERNEL_SETS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("inner", [False, True])
def test_a_block_is_added_to_the_stream_which_is_normalized(
    kernels: StepKernels, device: str, dtype: torch.dtype, inner: bool
) -> None:
    x, stream = numbers(5, 640, dtype=dtype), numbers(5, 640, dtype=dtype, seed=1)
    weights = numbers(2, 640, dtype=dtype, seed=2)
    after, out = added(kernels, x, stream, weights, inner, device)
    block = rms_norm(x, weights[1], adds_one=False) if inner else x.double()
    bound = BOUNDS[dtype]
    torch.testing.assert_close(after.double(), stream.double() + block, atol=bound, rtol=bound)
    # The stream is normalized as it was rounded.
    expected = rms_norm(after, weights[0], adds_one=False)
    torch.testing.assert_close(out.double(), expected, atol=bound, rtol=bound)


@pytest.mark.parametrize(("kernels", "device"), KERNEL_SETS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("gelu", [False, True])
def test_a_gate_is_its_activation_times_up(
    kernels: StepKernels, device: str, dtype: torch.dtype, gelu: bool
) -> None:
    gate_up = 4 * numbers(3, 2 * 1100, dtype=dtype)
    gate, up = gate_up.double().chunk(2, dim=-1)
    expected = (F.gelu(gate, approximate="tanh") if gelu else F.silu(gate)) * up
    out = gated(kernels, gate_up, gelu, device)
    torch.testing.assert_close(out.double(), expected, atol=BOUNDS[dtype], rtol=BOUNDS[dtype])


def test_a_gate_far_from_zero_is_finite() -> None:
    far = torch.tensor([[-200.0, 200.0, 1.0, 2.0]])
    for gelu in (False, True):
        assert gated(KERNELS, far, gelu, DEVICE).tolist() == [[0.0, 400.0]]


Operator = Callable[[Tensor], Tensor]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", ["norm", "add", "gate"])
def test_a_row_has_the_same_bits_alone_and_in_a_batch(dtype: torch.dtype, name: str) -> None:
    weights = numbers(2, 640, dtype=dtype, seed=2)
    operators: dict[str, Operator] = {
        "norm": lambda x: normed(KERNELS, x, weights[0], False, DEVICE),
        "add": lambda x: added(KERNELS, x, x, weights, True, DEVICE)[1],
        "gate": lambda x: gated(KERNELS, x, False, DEVICE),
    }
    x = numbers(9, 640, dtype=dtype)
    together = operators[name](x)
    for row in (0, 4, 8):
        assert torch.equal(operators[name](x[row : row + 1])[0], together[row])
