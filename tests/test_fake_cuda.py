"""The harness of fake CUDA tensors finds each kind of fault, and counts what runs."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.fake_cuda import DeviceMismatch, HostSync, fake_cuda


def numbers() -> Tensor:
    return torch.empty(4, 8, device="cuda")


WAITS: dict[str, Callable[[], object]] = {
    "item": lambda: numbers().sum().item(),
    "tolist": lambda: numbers().tolist(),
    "branch": lambda: 1 if numbers().sum() > 0 else 2,
    "mask": lambda: numbers()[numbers() > 0],
    "nonzero": lambda: numbers().nonzero(),
    "equal": lambda: torch.equal(numbers(), numbers()),
}
MIXES: dict[str, Callable[[], object]] = {
    "sum": lambda: numbers() + torch.ones(8),
    "product": lambda: F.linear(numbers(), torch.ones(2, 8)),
    "index": lambda: numbers()[torch.tensor([0, 1])],
    "stack": lambda: torch.cat([numbers(), torch.ones(4, 8)]),
    "assignment": lambda: numbers().index_select(0, torch.tensor([1])),
}
FINE: dict[str, Callable[[], object]] = {
    "slices": lambda: numbers()[:, 2:4][..., None][0],
    "a number of the host": lambda: numbers() + torch.ones(()),
    "index": lambda: numbers()[torch.zeros(2, dtype=torch.int64, device="cuda")],
    "assignment": lambda: numbers().__setitem__((slice(None), 3), 1.0),
    "the host alone": lambda: torch.ones(8).sum(),
}


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_for_the_device_is_found(name: str) -> None:
    with pytest.raises(HostSync), fake_cuda():
        WAITS[name]()


@pytest.mark.parametrize("name", MIXES)
def test_mixed_devices_are_found(name: str) -> None:
    with pytest.raises(DeviceMismatch), fake_cuda():
        MIXES[name]()


@pytest.mark.parametrize("name", FINE)
def test_what_a_step_may_do_is_accepted(name: str) -> None:
    with fake_cuda() as recording:
        FINE[name]()
    assert recording.uploads == recording.downloads == 0


def test_copies_between_host_and_device_are_counted() -> None:
    with fake_cuda() as recording:
        numbers().copy_(torch.empty(4, 8))
        numbers().copy_(numbers())
        numbers().cpu()
        torch.empty(4, 8).copy_(numbers())
    assert (recording.uploads, recording.downloads) == (1, 2)
    assert recording.launches == ["aten.copy_.default"]


def test_views_launch_nothing_and_operators_one_kernel() -> None:
    with fake_cuda() as recording:
        x = numbers().view(8, 4).transpose(0, 1)[1:]
        F.silu(x).mul_(2)
        torch.ones(3).add_(1)  # on the host
    assert recording.launches == ["aten.silu.default", "aten.mul_.Tensor"]


def test_an_operator_that_is_in_no_list_is_named() -> None:
    with pytest.raises(NotImplementedError, match="does not list aten::cosh"), fake_cuda():
        numbers().cosh()
