"""Translates reports of rounds to and from protobuf."""

from collections.abc import Sequence

from parallel.messages import EngineRound, Period
from protos.paceline.v1 import link_pb2 as pb
from runtime.links.wire_values import checked_seconds, require

MAX_ROUNDS = 1024
"""Most rounds in one message."""
_MAX_PERIODS = 4096


def put_round(report: EngineRound) -> pb.EngineRound:
    """Return the wire form of a report; raises ValueError for a time that is not finite."""
    return pb.EngineRound(
        forward=_put_period(report.forward),
        waits=[_put_period(one) for one in report.waits],
        drafts=[_put_period(one) for one in report.drafts],
        num_samples=report.num_samples,
        num_tokens=report.num_tokens,
        num_drafted=report.num_drafted,
        num_accepted=report.num_accepted,
        num_rejected=report.num_rejected,
        num_hits=report.num_hits,
        num_misses=report.num_misses,
        reads_prompts=report.reads_prompts,
    )


def get_rounds(wires: Sequence[pb.EngineRound]) -> tuple[EngineRound, ...]:
    """Read the reports of a Pong.

    Raises:
        ValueError: there are too many, or a time is negative or not finite.
    """
    require(len(wires) <= MAX_ROUNDS, f"{len(wires)} rounds, {MAX_ROUNDS} at most")
    return tuple(_get_round(wire) for wire in wires)


def _get_round(wire: pb.EngineRound) -> EngineRound:
    num_periods = len(wire.waits) + len(wire.drafts)
    require(num_periods <= _MAX_PERIODS, f"{num_periods} periods, {_MAX_PERIODS} at most")
    return EngineRound(
        forward=_get_period(wire.forward),
        waits=tuple(_get_period(one) for one in wire.waits),
        drafts=tuple(_get_period(one) for one in wire.drafts),
        num_samples=wire.num_samples,
        num_tokens=wire.num_tokens,
        num_drafted=wire.num_drafted,
        num_accepted=wire.num_accepted,
        num_rejected=wire.num_rejected,
        num_hits=wire.num_hits,
        num_misses=wire.num_misses,
        reads_prompts=wire.reads_prompts,
    )


def _put_period(period: Period) -> pb.Period:
    return pb.Period(
        start_s=checked_seconds(period.start_s, "start_s"),
        end_s=checked_seconds(period.end_s, "end_s"),
    )


def _get_period(wire: pb.Period) -> Period:
    return Period(checked_seconds(wire.start_s, "start_s"), checked_seconds(wire.end_s, "end_s"))
