"""The step plan, which rank 0 makes and all ranks of its group execute."""

from dataclasses import dataclass

import msgpack

from parallel.batch import SequenceRows, TokenDraw
from parallel.decoding.types import RngKey
from runtime.errors import ProtocolError
from runtime.files.documents import parse_msgpack


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotOpening:
    """Pages for a sequence; opens the sequence if it is new."""

    slot: int
    pages: tuple[int, ...]
    """Appended to the pages that it has."""
    length: int = 0
    """Tokens that the first pages of a new sequence already hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """One step of a model group; the empty plan is a heartbeat."""

    frees: tuple[int, ...] = ()
    """Slots to free before any is opened."""
    openings: tuple[SlotOpening, ...] = ()
    rows: tuple[SequenceRows, ...] = ()
    num_candidates: tuple[int | None, ...] = ()
    """For each row of logits, how many of the best candidates rank 0 needs; None is all."""
    width: int = 1
    """Layers whose attention reads the same input; 1 is the exact forward."""
    stop: bool = False
    """Whether this is the last plan, after which followers return."""


def encode_plan(plan: StepPlan) -> bytes:
    """Pack a plan for broadcast."""
    rows = [
        (
            row.slot,
            row.start,
            row.token_ids,
            row.num_logits,
            row.parents,
            row.moves,
            row.adapter,
            _draw_fields(row.draw),
        )
        for row in plan.rows
    ]
    openings = [(opening.slot, opening.pages, opening.length) for opening in plan.openings]
    packed: bytes = msgpack.packb(
        (plan.frees, openings, rows, plan.num_candidates, plan.width, plan.stop)
    )
    return packed


def decode_plan(payload: bytes) -> StepPlan:
    """Unpack what `encode_plan` packed.

    Raises:
        ProtocolError: it is not a step plan.
    """
    try:
        frees, openings, rows, num_candidates, width, stop = parse_msgpack(payload, use_list=False)
        return StepPlan(
            frees=frees,
            openings=tuple(
                SlotOpening(slot=slot, pages=pages, length=length)
                for slot, pages, length in openings
            ),
            rows=tuple(
                SequenceRows(
                    slot=slot,
                    start=start,
                    token_ids=ids,
                    num_logits=num_logits,
                    parents=parents,
                    moves=moves,
                    adapter=adapter,
                    draw=_draw(draw),
                )
                for slot, start, ids, num_logits, parents, moves, adapter, draw in rows
            ),
            num_candidates=num_candidates,
            width=width,
            stop=stop,
        )
    except (ValueError, TypeError) as error:
        raise ProtocolError(
            f"rank 0 sent {len(payload)} bytes that are not a step plan: {error}"
        ) from error


def _draw_fields(draw: TokenDraw | None) -> tuple[int, int, int, float] | None:
    if draw is None:
        return None
    return draw.key.seed, draw.key.request, draw.position, draw.temperature


def _draw(fields: tuple[int, int, int, float] | None) -> TokenDraw | None:
    if fields is None:
        return None
    seed, request, position, temperature = fields
    return TokenDraw(
        key=RngKey(seed=seed, request=request), position=position, temperature=temperature
    )
