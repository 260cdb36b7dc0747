"""Run device code on fake CUDA tensors: mixed devices and waits for the device are faults.

A build of torch for CPUs makes fake CUDA tensors, but its bindings of indexing and copies look for
CUDA. `_Bindings` calls the operators behind these bindings instead.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support.launches import launches_of

aten = torch.ops.aten


class HostSync(AssertionError):
    """The code waits for the device."""


class DeviceMismatch(AssertionError):
    """An operator got tensors of the host and of the device."""


@dataclass
class Recording:
    """What ran on the device."""

    launches: list[str] = field(default_factory=list)
    """The operators that launch kernels, once for each kernel."""
    uploads: int = 0
    downloads: int = 0


@contextmanager
def fake_cuda() -> Iterator[Recording]:
    """Make fake tensors of all that is created inside, and record what runs on the device.

    Raises:
        HostSync: the code waits for the device, other than by a copy to the host.
        DeviceMismatch: an operator mixes tensors of the host with those of the device; only a
            number on the host may be mixed.
    """
    recording = Recording()
    with FakeTensorMode(), _Watch(recording), _Bindings():
        yield recording


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    def __init__(self, recording: Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._recording = recording

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],  # torch's signature
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        kinds = {tensor.device.type for tensor in tensors if tensor.ndim or tensor.is_cuda}
        if func is aten.copy_.default or func is aten._to_copy.default:
            self._record_copy(func, args, kwargs)
        elif len(kinds) > 1:
            raise DeviceMismatch(f"{func} gets tensors on {' and '.join(sorted(kinds))}")
        elif "cuda" in kinds:
            self._recording.launches += [str(func)] * launches_of(func, args)
        try:
            return func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise HostSync(f"{func} needs a value from the device") from error

    def _record_copy(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if func is aten.copy_.default:
            source, target = args[1].device, args[0].device
        else:
            source = args[0].device
            target = torch.device(kwargs.get("device") or source)
        if source.type == target.type:
            self._recording.launches += [str(func)] * source.type.count("cuda")
        elif target.type == "cuda":
            self._recording.uploads += 1
        else:
            self._recording.downloads += 1


class _Bindings(TorchFunctionMode):
    """Replaces the bindings that look for CUDA by the operators behind them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],  # torch's signature
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.__getitem__:
            return _item(args[0], args[1])
        if func is Tensor.__setitem__:
            return _set_item(*args)
        if func is Tensor.copy_:
            return aten.copy_.default(*args, **kwargs)
        if func is Tensor.to and _is_device(args[1:], kwargs):
            device = torch.device(kwargs.get("device") or args[1])
            return aten._to_copy.default(args[0], device=device, dtype=kwargs.get("dtype"))
        if func in (Tensor.nonzero, torch.nonzero):
            return aten.nonzero.default(*args)
        return func(*args, **kwargs)


def _is_device(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether the arguments of Tensor.to name a device."""
    return "device" in kwargs or (len(args) == 1 and isinstance(args[0], str | torch.device))


def _item(x: Tensor, index: Any) -> Tensor:
    """Return x[index]: slices, numbers, None and ... first, then tensors."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [part for part in parts if not isinstance(part, Tensor)]:
        place = next(i for i, part in enumerate(parts) if part is Ellipsis)
        used = sum(part is not None and part is not Ellipsis for part in parts)
        parts[place : place + 1] = [slice(None)] * (x.ndim - used)
    dim, tensors = 0, list[Tensor | None]()
    for part in parts:
        if isinstance(part, int):
            x = aten.select.int(x, dim, part)
            continue
        if part is None:
            x = aten.unsqueeze.default(x, dim)
        elif isinstance(part, slice) and part != slice(None):
            x = aten.slice.Tensor(x, dim, part.start, part.stop, part.step or 1)
        tensors.append(part if isinstance(part, Tensor) else None)
        dim += 1
    if any(t is not None and t.dtype == torch.bool for t in tensors):
        raise HostSync("the shape of x[mask] needs a value from the device")
    return aten.index.Tensor(x, tensors) if any(t is not None for t in tensors) else x


def _set_item(x: Tensor, index: Any, value: Any) -> None:
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(part, Tensor) for part in parts):
        tensors = [part if isinstance(part, Tensor) else None for part in parts]
        aten.index_put_.default(x, tensors, value)
    elif isinstance(value, Tensor):
        aten.copy_.default(_item(x, index), value)
    else:
        aten.fill_.Scalar(_item(x, index), value)
