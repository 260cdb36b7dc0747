"""The step plan: what rank 0 decides and every rank of its group carries out."""

from dataclasses import dataclass

import msgpack

from parallel.model.batch import SequenceRows
from runtime.errors import ProtocolError


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotOpening:
    """Reserve cache for a new sequence."""

    slot: int
    capacity: int
    """Tokens the sequence can grow to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """One step of a model group; the empty plan is a heartbeat."""

    frees: tuple[int, ...] = ()
    """Slots to release, before any is opened."""
    openings: tuple[SlotOpening, ...] = ()
    rows: tuple[SequenceRows, ...] = ()
    num_candidates: tuple[int, ...] = ()
    """For each row of logits, how many best candidates rank 0 needs; 0 is the whole vocabulary."""
    stop: bool = False
    """The last plan: followers return."""


def encode_plan(plan: StepPlan) -> bytes:
    """Pack a plan for broadcast."""
    rows = [
        (row.slot, row.start, row.token_ids, row.num_logits, row.parents, row.moves)
        for row in plan.rows
    ]
    openings = [(opening.slot, opening.capacity) for opening in plan.openings]
    packed: bytes = msgpack.packb((plan.frees, openings, rows, plan.num_candidates, plan.stop))
    return packed


def decode_plan(payload: bytes) -> StepPlan:
    """Unpack what `encode_plan` packed.

    Raises:
        ProtocolError: the payload is not a step plan.
    """
    try:
        frees, openings, rows, num_candidates, stop = msgpack.unpackb(payload, use_list=False)
        return StepPlan(
            frees=frees,
            openings=tuple(SlotOpening(slot=slot, capacity=tokens) for slot, tokens in openings),
            rows=tuple(
                SequenceRows(
                    slot=slot,
                    start=start,
                    token_ids=ids,
                    num_logits=num_logits,
                    parents=parents,
                    moves=moves,
                )
                for slot, start, ids, num_logits, parents, moves in rows
            ),
            num_candidates=num_candidates,
            stop=stop,
        )
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(
            f"rank 0 sent {len(payload)} bytes that are no step plan: {error}"
        ) from error
