"""Clients that watch the engines: each gets all reports, a slow one loses the oldest."""

import asyncio

import pytest

from parallel.messages import EngineRound, Period, Pong
from runtime.gateway.limits import GatewayBusy
from runtime.gateway.round_feed import MAX_WATCHERS, RoundFeed


def pong(start_s: float, num_rounds: int = 1) -> Pong:
    report = EngineRound(forward=Period(start_s, start_s + 1))
    return Pong(number=1, now_s=start_s + 1, rounds=(report,) * num_rounds)


def test_every_watcher_gets_every_report() -> None:
    async def scenario() -> None:
        feed = RoundFeed()
        feed.publish(0, pong(1.0))  # before any client watches
        watchers = [feed.watch(), feed.watch()]
        await asyncio.wait_for(feed.watched(), 30)
        feed.publish(0, pong(2.0))
        feed.publish(1, pong(3.0))
        for watcher in watchers:
            taken = await watcher.take(30)
            assert [(one.replica, one.now_s) for one in taken] == [(0, 3.0), (1, 4.0)]
            assert await watcher.take(0.0) == ()
            feed.unwatch(watcher)
        assert not feed._is_watched.is_set()

    asyncio.run(scenario())


def test_a_slow_watcher_holds_a_bounded_number_of_rounds_and_counts_what_it_lost() -> None:
    async def scenario() -> None:
        feed = RoundFeed()
        watcher = feed.watch()
        for number in range(100):
            feed.publish(0, pong(float(number), num_rounds=100))
        taken = await watcher.take(30)
        num_kept = sum(len(one.rounds) for one in taken)
        assert num_kept <= 4096
        assert num_kept + watcher.num_dropped == 10_000
        assert taken[-1].now_s == 100.0

    asyncio.run(scenario())


def test_a_reader_that_waits_is_woken_by_the_end() -> None:
    async def scenario() -> None:
        feed = RoundFeed()
        watcher = feed.watch()
        reading = asyncio.create_task(watcher.take(30))
        await asyncio.sleep(0)
        feed.close()
        assert await reading == ()
        assert watcher.is_closed

    asyncio.run(scenario())


def test_there_are_only_so_many_watchers() -> None:
    feed = RoundFeed()
    watchers = [feed.watch() for _ in range(MAX_WATCHERS)]
    with pytest.raises(GatewayBusy, match="try again later"):
        feed.watch()
    feed.unwatch(watchers[0])
    feed.watch()
