"""What constraints cost: the time of compiling them, and of each mask along outputs."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from parallel.decoding.constraint import ConstraintState

Times = tuple[float, ...]
"""Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskCosts:
    """Times of some constraints and of the outputs that were made under them."""

    first_s: Times = ()
    """From the text of a constraint to its first mask."""
    mask_s: Times = ()
    """Of each mask after the first."""
    advance_s: Times = ()
    """Of each step to the state after one more token."""
    num_complete: int = 0
    """Outputs that satisfy their constraint."""
    num_outputs: int = 0

    def __add__(self, other: "MaskCosts") -> "MaskCosts":
        """Return the costs of both."""
        return MaskCosts(
            first_s=self.first_s + other.first_s,
            mask_s=self.mask_s + other.mask_s,
            advance_s=self.advance_s + other.advance_s,
            num_complete=self.num_complete + other.num_complete,
            num_outputs=self.num_outputs + other.num_outputs,
        )


def replayed(
    start: Callable[[], ConstraintState],
    outputs: Iterable[Sequence[int]],
    *,
    end_ids: frozenset[int],
    now_s: Callable[[], float],
) -> MaskCosts:
    """Compile a constraint and follow outputs that satisfy it, token by token.

    Args:
        start: compiles the constraint and returns the state at the start of an output.
        outputs: tokens of each.
        end_ids: the tokens that end an output.
        now_s: the clock, of the processor time of this thread for instance.

    Raises:
        ValueError: the constraint cannot be compiled, or an output breaks it.
    """
    begin_s = now_s()
    first = start()
    first.mask()
    found = MaskCosts(first_s=(now_s() - begin_s,))
    for output in outputs:
        found += _along(first, [token for token in output if token not in end_ids], now_s)
    return found


def percentiles(times: Times) -> tuple[float, float]:
    """Return the median of some times and their 99th percentile; both 0 without any."""
    if len(times) < 2:
        return (times or (0.0,))[0], (times or (0.0,))[0]
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return cuts[49], cuts[98]


def _along(
    state: ConstraintState, token_ids: Sequence[int], now_s: Callable[[], float]
) -> MaskCosts:
    moments = [now_s()]
    for token in token_ids:
        state = state.advance(token)
        moments.append(now_s())
        state.mask()
        moments.append(now_s())
    seconds = tuple(after - before for before, after in pairwise(moments))
    return MaskCosts(
        advance_s=seconds[::2],
        mask_s=seconds[1::2],
        num_complete=int(state.is_complete),
        num_outputs=1,
    )
