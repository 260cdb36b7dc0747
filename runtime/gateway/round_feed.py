"""Passes the engines' reports of rounds to clients that watch; a slow one loses the oldest."""

import asyncio
from collections import deque
from dataclasses import dataclass

from parallel.messages import EngineRound, Pong
from runtime.gateway.limits import GatewayBusy

MAX_WATCHERS = 32
_MOST_ROUNDS = 4096
"""Rounds that wait for one slow client: some megabytes at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRounds:
    """The latest rounds of one engine."""

    replica: int
    now_s: float
    """The clock of its leader when it reported them."""
    rounds: tuple[EngineRound, ...]


class Watcher:
    """One client's queue of reports, which is bounded."""

    def __init__(self) -> None:
        self._waiting: deque[ReplicaRounds] = deque()
        self._num_rounds = 0
        self._arrived = asyncio.Event()
        self.num_dropped = 0
        """Rounds that it lost because it was too slow, so far."""
        self.is_closed = False
        """Whether the server ends."""

    def put(self, rounds: ReplicaRounds) -> None:
        """Queue a report; the oldest ones are dropped when there are too many."""
        self._waiting.append(rounds)
        self._num_rounds += len(rounds.rounds)
        while self._num_rounds > _MOST_ROUNDS and len(self._waiting) > 1:
            num_lost = len(self._waiting.popleft().rounds)
            self._num_rounds -= num_lost
            self.num_dropped += num_lost
        self._arrived.set()

    def close(self) -> None:
        """Wake the reader for the last time."""
        self.is_closed = True
        self._arrived.set()

    async def take(self, timeout_s: float) -> tuple[ReplicaRounds, ...]:
        """Return the queued reports, waiting for the first one; none if there is none in time."""
        try:
            await asyncio.wait_for(self._arrived.wait(), timeout_s)
        except TimeoutError:
            return ()
        self._arrived.clear()
        taken = tuple(self._waiting)
        self._waiting.clear()
        self._num_rounds = 0
        return taken


class RoundFeed:
    """The clients that watch the engines; used on the gateway's loop only."""

    def __init__(self) -> None:
        self._watchers: list[Watcher] = []
        self._is_watched = asyncio.Event()

    def watch(self) -> Watcher:
        """Start to watch; `unwatch` must follow.

        Raises:
            GatewayBusy: too many clients watch.
        """
        if len(self._watchers) >= MAX_WATCHERS:
            raise GatewayBusy(f"{MAX_WATCHERS} clients watch this server: try again later")
        watcher = Watcher()
        self._watchers.append(watcher)
        self._is_watched.set()
        return watcher

    def unwatch(self, watcher: Watcher) -> None:
        """Stop watching."""
        self._watchers.remove(watcher)
        if not self._watchers:
            self._is_watched.clear()

    async def watched(self) -> None:
        """Wait until a client watches."""
        await self._is_watched.wait()

    def publish(self, replica: int, pong: Pong) -> None:
        """Give every client an engine's report."""
        rounds = ReplicaRounds(replica=replica, now_s=pong.now_s, rounds=pong.rounds)
        for watcher in self._watchers:
            watcher.put(rounds)

    def close(self) -> None:
        """End the streams of all clients."""
        for watcher in self._watchers:
            watcher.close()
