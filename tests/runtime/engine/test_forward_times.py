"""The forwards that are timed before the first draft."""

from parallel.group import SoloGroup
from runtime.clock import ManualClock
from runtime.engine.forward_times import measure_forwards
from runtime.rank.page_ledger import SlotLedger
from runtime.rank.shard import ShardRunner
from runtime.rank.toy_shard import PrefixShard
from tests.support.rig import PAGE, VOCAB
from tests.support.virtual_engine import TimedShard, Times


def measured(*, num_pages: int = 100, max_positions: int = 400, base_s: float = 0.001) -> list:  # type: ignore[type-arg]  # pairs of size and seconds
    clock = ManualClock()
    times = Times(target_s=lambda positions: base_s * (1 + positions))
    shard = TimedShard(PrefixShard(VOCAB, page_size=PAGE), clock, times)
    ledger = SlotLedger(num_pages=num_pages, page_size=PAGE)
    found: list[tuple[int, float]] = []
    measure_forwards(
        ShardRunner(shard, SoloGroup()),
        ledger,
        clock,
        max_positions=max_positions,
        observe=lambda size, seconds: found.append((size, round(seconds / base_s))),
    )
    assert ledger.num_available_pages == num_pages  # all are free again
    return found


def test_forwards_of_several_sizes_are_timed_several_times() -> None:
    found = measured()
    assert {size for size, _ in found} == {1, 2, 4, 6, 8, 12, 16, 25}
    assert all(found.count((size, size + 1)) == 3 for size, _ in found)


def test_slow_forwards_end_the_measurement_early() -> None:
    assert 1 <= len(measured(base_s=0.2)) < 8


def test_without_room_nothing_is_measured() -> None:
    assert measured(num_pages=5) == []
    assert measured(max_positions=20) == []
