"""Keepalive of gRPC connections: how often each side pings, and how often servers permit it.

A server ends the connection of a client that pings more often than it permits ("too many pings"),
so both sides are set here. gRPC ignores options with unknown names: the tests compare every name
in this project with those in the installed library.
"""

Options = tuple[tuple[str, int], ...]

PING_S = 20.0
"""A side pings after this many seconds without traffic."""
_PERMITTED_MS = 500
"""Shortest permitted interval of a client's pings. Other libraries ping every 10 s, some every
second in tests; an answer costs a server microseconds."""


def pinging(ping_s: float = PING_S) -> Options:
    """Return the options of a side that detects a peer which vanished without closing.

    It pings after `ping_s` without traffic (gRPC's minimum is a second) and closes the connection
    if no answer arrives within half of that.
    """
    return (
        ("grpc.keepalive_time_ms", round(ping_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(ping_s * 500)),  # for a host that is gone
        ("grpc.http2.ping_timeout_ms", round(ping_s * 500)),  # for a process that is stopped
        ("grpc.http2.max_pings_without_data", 0),  # a reader of a stream sends no data
    )


PERMITTING: Options = (
    ("grpc.http2.min_ping_interval_without_data_ms", _PERMITTED_MS),
    ("grpc.keepalive_permit_without_calls", 1),
)
"""The options of a server whose clients ping."""
