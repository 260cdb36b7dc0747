"""Times of the target's forwards over a few sizes, so that first drafts are of a good length."""

from collections.abc import Callable
from collections.abc import Sequence as Items

from parallel.batch import SequenceRows, TokenDraw
from parallel.decoding.types import RngKey
from runtime.clock import Clock
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner

_SIZES = (1, 8, 4, 25, 6, 2, 16, 12)  # the first few alone tell much
_REPEATS = 3
_CONTEXT = 64
_BUDGET_S = 1.0
_DRAW = TokenDraw(key=RngKey(seed=0, request=0), position=0)
"""A round's forward ends with the tokens that it draws, where a device draws."""


def measure_forwards(
    runner: ShardRunner,
    ledger: SlotLedger,
    clock: Clock,
    *,
    max_positions: int,
    observe: Callable[[int, float], None],
) -> None:
    """Time forwards of a few sizes; takes a second or two, and does nothing without free pages.

    Args:
        runner: the target; nothing is in flight.
        ledger: the account of its cache.
        clock: the time.
        max_positions: the longest sequence that the target reads.
        observe: is called with each forward's positions and seconds.
    """
    longest = max(_SIZES)
    context = min(_CONTEXT, max_positions - longest)
    if context < 1 or not ledger.fits(context + longest):
        return
    slot = 0  # sequences are numbered from 1
    ledger.open(slot, context + longest)
    before = SequenceRows(slot=slot, start=0, token_ids=(0,) * context, num_logits=0)
    runner.execute(ledger.plan((before,)))
    rows = [
        SequenceRows(slot=slot, start=context, token_ids=(0,) * size, num_logits=size, draw=_DRAW)
        for size in _SIZES
    ]
    _time(rows, runner, ledger, clock, lambda *_: None)  # a size's first forward prepares kernels
    _time(rows * _REPEATS, runner, ledger, clock, observe)
    ledger.close(slot)


def _time(
    rows: Items[SequenceRows],
    runner: ShardRunner,
    ledger: SlotLedger,
    clock: Clock,
    observe: Callable[[int, float], None],
) -> None:
    """Report how long a forward over each row takes, until a second has passed."""
    end_s = clock.now_s() + _BUDGET_S
    for row in rows:
        start_s = clock.now_s()
        runner.execute(ledger.plan((row,), (1,) * row.num_logits))
        now_s = clock.now_s()
        observe(row.num_logits, now_s - start_s)
        if now_s > end_s:
            break
