"""Entries in few bytes: machines that sent the same number of scalars are grouped, as columns.

A group is all entries of one round with one number of scalars; its machines are varints of the
gaps between their numbers, so a scalar of a large cluster costs about two bytes.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from parallel.training.shared_seed.numbering import MAX_MACHINES
from parallel.training.shared_seed.step import Entry

_MORE = 0x80


class EntryGroup(NamedTuple):
    """Entries of one round with one number of scalars."""

    round: int
    num_scalars: int
    """Scalars of each machine."""
    gaps: bytes
    """Differences of the machines' numbers in ascending order, as varints."""
    codes: bytes
    """Bytes of one machine after the other."""


def pack(entries: Iterable[Entry]) -> list[EntryGroup]:
    """Return the groups of entries."""
    alike: dict[tuple[int, int], list[Entry]] = {}
    for entry in sorted(entries):
        alike.setdefault((entry.round, len(entry.codes)), []).append(entry)
    return [
        EntryGroup(number, size, _gaps([e.machine for e in some]), b"".join(e.codes for e in some))
        for (number, size), some in sorted(alike.items())
    ]


def unpack(groups: Iterable[EntryGroup]) -> tuple[Entry, ...]:
    """Return the entries of groups, by round and machine.

    Raises:
        ValueError: the bytes are inconsistent.
    """
    found = []
    for number, size, gaps, codes in groups:
        machines = _machines(gaps)
        if number < 0 or size < 1 or len(codes) != size * len(machines):
            raise ValueError(
                f"{len(codes)} scalars of {len(machines)} machines with {size} each in round "
                f"{number}"
            )
        found += [
            Entry(number, machine, bytes(codes[place * size : (place + 1) * size]))
            for place, machine in enumerate(machines)
        ]
    entries = tuple(sorted(found))
    if len({(entry.round, entry.machine) for entry in entries}) != len(entries):
        raise ValueError("a machine occurs twice in one round")
    return entries


def _gaps(machines: Sequence[int]) -> bytes:
    out, before = bytearray(), 0
    for machine in machines:
        gap, before = machine - before, machine
        while gap >= _MORE:
            out.append(gap & 0x7F | _MORE)
            gap >>= 7
        out.append(gap)
    return bytes(out)


def _machines(gaps: bytes) -> list[int]:
    found, machine, gap, shift = [], 0, 0, 0
    for byte in gaps:
        gap |= (byte & 0x7F) << shift
        shift += 7
        if byte & _MORE:
            continue
        machine += gap
        if machine >= MAX_MACHINES:
            raise ValueError(f"machine {machine}: there are at most {MAX_MACHINES}")
        found.append(machine)
        gap = shift = 0
    if shift:
        raise ValueError("the number of a machine is truncated")
    return found
