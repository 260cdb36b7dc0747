"""Measures the round-trip time of a link with Ping and Pong messages."""

import statistics
import time
from dataclasses import dataclass

from parallel.messages import Ping, Pong
from runtime.errors import PeerLost, PeerTimeout, ProtocolError
from runtime.links.link import Link


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTrips:
    """Round-trip times of a link."""

    p50_s: float
    p99_s: float
    count: int


def measure_round_trips(
    link: Link, count: int, *, gap_s: float = 0.0, timeout_s: float = 10.0
) -> RoundTrips:
    """Exchange `count` pings, one at a time, with a peer that runs `answer_pings`.

    There are `gap_s` seconds between two pings: after a pause both sides have to wake up, as
    between rounds.

    Raises:
        PeerTimeout: a Pong did not come within `timeout_s`.
        PeerLost: the peer left.
        ProtocolError: the peer sent another message than the Pong.
    """
    if count < 2:
        raise ValueError(f"count is {count}: percentiles need at least 2 round trips")
    times_s = [_round_trip_s(link, number, gap_s, timeout_s) for number in range(count)]
    percentiles = statistics.quantiles(times_s, n=100, method="inclusive")
    return RoundTrips(p50_s=percentiles[49], p99_s=percentiles[98], count=count)


def answer_pings(link: Link) -> None:
    """Answer every Ping; blocks until the peer closes the link."""
    try:
        while True:
            message = link.recv(60.0)
            if isinstance(message, Ping):
                link.send(Pong(number=message.number))
    except PeerLost:
        return


def _round_trip_s(link: Link, number: int, gap_s: float, timeout_s: float) -> float:
    if gap_s:
        time.sleep(gap_s)
    start = time.perf_counter()
    link.send(Ping(number=number))
    answer = link.recv(timeout_s)
    elapsed_s = time.perf_counter() - start
    if answer is None:
        raise PeerTimeout(f"{link.peer} did not answer a ping within {timeout_s:g} s")
    if answer != Pong(number=number):
        raise ProtocolError(f"{link.peer} answered ping {number} with {answer}")
    return elapsed_s
