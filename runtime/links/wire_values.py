"""The values that messages may carry: names of enums and ranges of numbers."""

import math
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import fields
from typing import TypeVar

from parallel.decoding.ahead_counts import AheadCounts
from parallel.decoding.types import DecodeMode
from protos.paceline.v1 import link_pb2 as pb

MAX_TOKEN_ID = 2**31 - 1
MAX_DRAFT_ITEMS = 4096
MAX_DRAFT_TOKENS = 1 << 16
MAX_DRAFT_PROBS = 1 << 20
"""For all draft tokens of a proposal together; more would block the leader for seconds."""

AHEAD_COUNTS = tuple(field.name for field in fields(AheadCounts))
"""Fields with the same names in messages and on the wire."""

_T = TypeVar("_T")
_Enum = TypeVar("_Enum", bound=int)

ROLES = {"driver": pb.ROLE_DRIVER, "drafter": pb.ROLE_DRAFTER}
MODES = {mode: pb.DecodeMode.Value(f"DECODE_MODE_{mode.name}") for mode in DecodeMode}
REASONS = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "cancelled": pb.FINISH_REASON_CANCELLED,
}
ROLE_NAMES = {number: name for name, number in ROLES.items()}
MODE_NAMES = {number: name for name, number in MODES.items()}
REASON_NAMES = {number: name for name, number in REASONS.items()}


def require(holds: bool, message: str) -> None:
    """Raise ValueError(message) unless `holds`."""
    if not holds:
        raise ValueError(message)


def known(names: Mapping[_Enum, _T], number: _Enum, field: str) -> _T:
    """Return the name of an enum value; raises ValueError for one that is not in `names`."""
    require(number in names, f"{field} {number} is unknown")
    return names[number]


def checked_token_ids(ids: Iterable[int]) -> tuple[int, ...]:
    """Return the ids as a tuple; raises ValueError when one is out of range."""
    token_ids = tuple(ids)
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) <= MAX_TOKEN_ID:
        raise ValueError(f"token ids range from {min(token_ids)} to {max(token_ids)}")
    return token_ids


def checked_context(ids: Iterable[int]) -> tuple[int, ...]:
    """Return one or two token ids; raises ValueError otherwise."""
    context = checked_token_ids(ids)
    require(len(context) in (1, 2), f"a context of {len(context)} tokens")
    return context


def checked_probs(values: Iterable[float], ids: Sized) -> tuple[float, ...]:
    """Return one probability for each id; raises ValueError otherwise."""
    probs = tuple(values)
    require(len(probs) == len(ids), f"{len(probs)} probabilities for {len(ids)} tokens")
    # Written so that a NaN, which compares false, is rejected.
    require(all(0 <= prob <= 1 for prob in probs), "a probability is outside 0 to 1")
    return probs


def one_each(values: Sequence[_T], token_ids: Sequence[int]) -> Sequence[_T]:
    """Return `values` when there are none or one for each token; raises ValueError otherwise."""
    require(len(values) in (0, len(token_ids)), f"{len(values)} values for {len(token_ids)} tokens")
    return values


def checked_parents(values: Sequence[int], token_ids: Sequence[int]) -> tuple[int, ...]:
    """Return the parents of a tree's tokens, or none; raises ValueError if they form no tree."""
    parents = tuple(one_each(values, token_ids))
    in_order = all(-1 <= parent < node for node, parent in enumerate(parents))
    require(in_order, f"parents {parents} do not form a tree")
    return parents


def finite(value: float, field: str) -> float:
    """Return `value`; raises ValueError when it is infinite or not a number."""
    require(math.isfinite(value), f"{field} is {value}")
    return value


def checked_seconds(value: float, field: str) -> float:
    """Return `value`; raises ValueError unless it is finite and at least 0."""
    require(math.isfinite(value) and value >= 0, f"{field} is {value}")
    return value


def checked_sources(token_ids: Sized, num_accepted: int, *, is_recovered: bool) -> None:
    """Raise ValueError unless a round can commit so many accepted tokens, and one that follows."""
    num_more = len(token_ids) - num_accepted
    require(num_accepted >= 0, f"{num_accepted} accepted tokens")
    is_possible = num_more == 1 if is_recovered else num_more >= 0
    require(is_possible, f"{num_accepted} accepted tokens among {len(token_ids)}")


def require_bounded(proposal: pb.Proposal) -> None:
    """Raise ValueError for a proposal that is larger than any round requests."""
    num_tokens = sum(len(item.token_ids) for item in proposal.items)
    outcomes = [part for item in proposal.items for part in item.outcomes]
    num_tokens += sum(1 + len(part.token_ids) for part in outcomes)
    num_probs = sum(len(probs.ids) for item in proposal.items for probs in item.draft_probs)
    for name, num, maximum in (
        ("items", len(proposal.items), MAX_DRAFT_ITEMS),
        ("draft tokens", num_tokens, MAX_DRAFT_TOKENS),
        ("draft probabilities", num_probs, MAX_DRAFT_PROBS),
    ):
        require(num <= maximum, f"{num} {name}, {maximum} at most")
