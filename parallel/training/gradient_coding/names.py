"""The names that users give schemes, with their parameters: gc-3, m-sgc-1-3-4."""

from collections.abc import Callable

from parallel.training.gradient_coding.codes import (
    ClassCode,
    CyclicCode,
    FractionalRepetition,
    GradientCode,
    replication_code,
)
from parallel.training.gradient_coding.schemes import CodedScheme, DropSlowest, Scheme
from parallel.training.gradient_coding.sequential import Multiplexed, SelectiveRepeat

ROUND_FORMS = "uncoded, drop-K, gc-S, frc-S, class-S, cyclic-S, roots-S, sr-sgc-B-W-L, m-sgc-B-W-L"
"""Schemes that work in rounds, as users write them."""
_CODES: dict[str, Callable[[int, int], GradientCode]] = {
    "gc": replication_code,
    "frc": FractionalRepetition,
    "class": ClassCode,
    "cyclic": CyclicCode.random,
    "roots": CyclicCode.roots_of_unity,
}
_SEQUENTIAL: dict[str, Callable[[int, int, int, int], Scheme]] = {
    "sr-sgc": SelectiveRepeat,
    "m-sgc": Multiplexed,
}
_PLAIN = {"drop": [1], "sr-sgc": [1, 2, 1], "m-sgc": [1, 2, 1]} | {stem: [1] for stem in _CODES}
"""The numbers of a name without any: one straggler is tolerated."""


def split_name(name: str) -> tuple[str, list[int]]:
    """Return a name's stem and the numbers after it."""
    stem, numbers = name, list[int]()
    while (cut := stem.rpartition("-"))[2].isdecimal():
        stem, numbers = cut[0], [int(cut[2]), *numbers]
    return stem, numbers


def round_scheme(name: str, num_workers: int) -> Scheme | None:
    """Return the scheme of a name; None if no scheme that works in rounds has this name.

    Raises:
        ValueError: it does not exist for so many workers; the message names one that does.
    """
    stem, numbers = split_name(name)
    if name == "uncoded":
        return CodedScheme(replication_code(num_workers, 0), name)
    if stem not in _PLAIN:
        return None
    numbers = numbers or _PLAIN[stem]
    if len(numbers) != len(_PLAIN[stem]):
        raise ValueError(f"{stem} takes {len(_PLAIN[stem])} number(s), as in {ROUND_FORMS}")
    if stem == "drop":
        return DropSlowest(num_workers, numbers[0])
    if stem in _SEQUENTIAL:
        burst, window, most = numbers
        return _SEQUENTIAL[stem](num_workers, burst, window, most)
    return CodedScheme(_CODES[stem](num_workers, numbers[0]), name)
