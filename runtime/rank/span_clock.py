"""The parts of a decode step, and a clock that adds up the time of each.

Code names its parts with `span`, or adds the seconds that a native call has measured itself.
`OperatorSpans` names those of torch's operators, without any change to the code that calls them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, ParamSpec, Protocol, TypeVar

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from runtime.clock import Clock

_P = ParamSpec("_P")
_T = TypeVar("_T")


class StepPart(StrEnum):
    """A part of a decode step."""

    PRODUCTS = "products"
    """The matrix products of the layers."""
    ATTENTION = "attention"
    ELEMENTWISE = "norms, RoPE, activation"
    HEAD = "head"
    """The matrix product of the head."""
    COPIES = "cache, embedding, masks"
    """Operators that only move or select numbers; native kernels write to the cache beside RoPE,
    and count that in `ELEMENTWISE`."""
    VERIFY = "sampling, verify"
    PLAN = "plan"
    PYTHON = "Python"
    """All that has no name: between the operators and the native calls."""


class StepClock(Protocol):
    """Takes the times of the parts of a step."""

    def span(self, part: StepPart) -> Any:
        """Return a context; the time in it, without that of contexts inside, is the part's."""
        ...

    def add(self, part: StepPart, seconds: float) -> None:
        """Give seconds of the running context to a part, as measured by what ran in it."""
        ...


class SpanClock:
    """Adds up the seconds of each part."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running: list[StepPart] = []
        self._since_s = 0.0
        self.seconds: dict[StepPart, float] = {}

    @contextmanager
    def span(self, part: StepPart) -> Iterator[None]:
        """Count the time in this context for a part; the part around it pauses."""
        self._turn()
        self._running.append(part)
        try:
            yield
        finally:
            self._turn()
            self._running.pop()

    def add(self, part: StepPart, seconds: float) -> None:
        """Move seconds from the running part to another one."""
        self._turn()
        self._count(part, seconds)
        if self._running:
            self._count(self._running[-1], -seconds)

    def _turn(self) -> None:
        """Give the time since the last turn to the running part."""
        now_s = self._clock.now_s()
        if self._running:
            self._count(self._running[-1], now_s - self._since_s)
        self._since_s = now_s

    def _count(self, part: StepPart, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds


def timed(clock: StepClock, part: StepPart, function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return the function with its calls counted for a part."""

    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with clock.span(part):
            return function(*args, **kwargs)

    return call


class OperatorSpans(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Counts each operator that torch runs in this context for its part.

    It makes each call some microseconds slower, outside the part's time: the time between the
    operators is only right in a run without it.
    """

    def __init__(self, clock: StepClock, *, head_size: int) -> None:
        """Take the clock.

        Args:
            clock: gets the times.
            head_size: rows of the head's weight, by which its product is known.
        """
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._step_clock = clock
        self._head_size = head_size

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operator."""
        del types
        with self._step_clock.span(part_of(func.name(), args, head_size=self._head_size)):
            return func(*args, **(kwargs or {}))


_PRODUCTS = ("linear", "mm", "addmm", "_weight_int8pack_mm", "_weight_int4pack_mm_for_cpu")
_COPIES = (
    *("embedding", "pad", "copy_", "clone", "cat", "stack", "index", "index_put_", "index_select"),
    *("arange", "unsqueeze", "gt", "new_zeros", "masked_fill_", "masked_fill", "repeat", "detach_"),
    *("lift_fresh", "view", "slice", "select", "transpose", "expand", "permute", "reshape", "to"),
    *("contiguous", "chunk", "split", "zeros", "_to_copy", "scatter_", "t", "squeeze", "view_as"),
    *("view_as_complex", "view_as_real", "unflatten", "flatten", "detach", "alias", "zero_"),
)
_SAMPLING = ("topk", "sort", "argmax", "max", "softmax", "_softmax", "log_softmax", "logsumexp")


def part_of(operator: str, args: Sequence[Any], *, head_size: int) -> StepPart:
    """Return the part of a step that an operator belongs to.

    Args:
        operator: its name, as aten::mm.
        args: its arguments; a product with a matrix of `head_size` rows is the head's.
        head_size: as for `OperatorSpans`.
    """
    name = operator.partition("::")[2].partition(".")[0]
    if name in _PRODUCTS or "_linear" in name:
        matrices = [a for a in args if isinstance(a, Tensor) and a.dim() == 2]
        is_head = any(head_size in matrix.shape for matrix in matrices[1:])
        return StepPart.HEAD if is_head else StepPart.PRODUCTS
    if "attention" in name or name == "bmm":
        return StepPart.ATTENTION
    if name in _COPIES:
        return StepPart.COPIES
    return StepPart.VERIFY if name in _SAMPLING else StepPart.ELEMENTWISE
