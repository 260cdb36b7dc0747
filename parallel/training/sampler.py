"""The samples of a step: a function of the step and the seed alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MIX_PERIOD = 1000
"""Samples after which the shares of several files are met exactly."""
_WINDOWS, _WITHIN = 1, 2
"""What a random order is of: the windows of an epoch, or the samples of one."""

Order = NDArray[np.int64]


class EpochOrder:
    """The order of a file's samples in one epoch: a permutation, of all or of windows.

    With windows, a reader needs a window of samples at a time: consecutive samples make a window,
    the windows come in an order of their own, and each one is shuffled.
    """

    def __init__(self, num_samples: int, key: Sequence[int], window: int | None = None) -> None:
        """Draw the order.

        Args:
            num_samples: samples of the file.
            key: numbers that the order is a function of.
            window: samples of a window; None is one window of all.
        """
        self._key = tuple(key)
        self._num_samples = num_samples
        self._window = window or num_samples
        self._firsts = np.arange(0, num_samples, self._window)
        self._order: Order = np.zeros(1, dtype=np.int64)
        if len(self._firsts) > 1:
            self._order = np.random.default_rng((*self._key, _WINDOWS)).permutation(
                len(self._firsts)
            )
        sizes = np.minimum(self._window, num_samples - self._firsts[self._order])
        self._starts = np.concatenate(([0], np.cumsum(sizes)))
        self._shuffled: dict[int, Order] = {}

    def at(self, first: int, stop: int) -> list[int]:
        """Return the samples at some consecutive places of the epoch."""
        found: list[int] = []
        while first < stop:
            place = int(np.searchsorted(self._starts, first, side="right")) - 1
            start, end = int(self._starts[place]), int(self._starts[place + 1])
            part = self._of_window(place)[first - start : min(stop, end) - start]
            found += part.tolist()
            first += len(part)
        return found

    def _of_window(self, place: int) -> Order:
        if place not in self._shuffled:
            window = int(self._order[place])
            # One window of all has the order that it has without windows.
            key = self._key if len(self._order) == 1 else (*self._key, _WITHIN, window)
            size = int(self._starts[place + 1] - self._starts[place])
            order: Order = np.random.default_rng(key).permutation(size)
            self._shuffled = {place: order + int(self._firsts[window])}
        return self._shuffled[place]


def step_samples(
    step: int, *, num_samples: int, batch: int, seed: int, window: int | None = None
) -> list[int]:
    """Return the samples of a step, in order: each epoch is a permutation of its own.

    Args:
        step: number of the step, from 0.
        num_samples: samples of the data.
        batch: samples of a step; may exceed num_samples.
        seed: random seed of the permutations.
        window: samples that a reader holds at a time; None is all.
    """
    found: list[int] = []
    place = step * batch
    while len(found) < batch:
        epoch, first = divmod(place + len(found), num_samples)
        order = EpochOrder(num_samples, (seed, epoch), window)
        found += order.at(first, min(num_samples, first + batch - len(found)))
    return found


def mixed_samples(
    step: int,
    *,
    sizes: Sequence[int],
    shares: Sequence[float],
    batch: int,
    seed: int,
    window: int | None = None,
) -> list[int]:
    """Return the samples of a step that draws from several files, numbered one file after another.

    Each `MIX_PERIOD` samples hold the shares, in an order of their own; each file has epochs of its
    own, which are permutations.

    Args:
        step: number of the step, from 0.
        sizes: samples of each file.
        shares: of the files, in any unit; at least a sample in `MIX_PERIOD` each.
        batch: samples of a step.
        seed: random seed.
        window: samples of each file that a reader holds at a time; None is all.
    """
    counts = _period_counts(shares)
    firsts = np.cumsum([0, *sizes])
    periods: dict[int, Order] = {}
    orders: dict[tuple[int, int], EpochOrder] = {}
    found = []
    for number in range(step * batch, (step + 1) * batch):
        period, index = divmod(number, MIX_PERIOD)
        if period not in periods:
            files = np.repeat(np.arange(len(sizes)), counts)
            draw = np.random.default_rng((seed, period, len(sizes)))
            periods[period] = draw.permutation(files)
        order = periods[period]
        file = int(order[index])
        drawn = period * counts[file] + int(np.count_nonzero(order[:index] == file))
        epoch, position = divmod(drawn, sizes[file])
        if (epoch, file) not in orders:
            orders[epoch, file] = EpochOrder(sizes[file], (seed, epoch, file), window)
        found.append(int(firsts[file]) + orders[epoch, file].at(position, position + 1)[0])
    return found


def _period_counts(shares: Sequence[float]) -> list[int]:
    """Return how many samples of a period are of each file: by the largest remainders."""
    exact = [share / sum(shares) * MIX_PERIOD for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda file: counts[file] - exact[file])
    for file in by_remainder[: MIX_PERIOD - sum(counts)]:
        counts[file] += 1
    return counts


def dropout_seed(seed: int, step: int, chunk: int, piece: int = 0) -> int:
    """Return the seed of a chunk's dropout, the same for every worker and attempt.

    `piece` counts the microbatches of a chunk that has several.
    """
    drawn = np.random.SeedSequence((seed, step, chunk, piece)).generate_state(1, np.uint64)
    return int(drawn[0] >> 1)


def split_evenly(items: list[int], num_parts: int) -> list[list[int]]:
    """Return consecutive parts whose sizes differ by at most one."""
    size, longer = divmod(len(items), num_parts)
    parts, first = [], 0
    for part in range(num_parts):
        stop = first + size + (part < longer)
        parts.append(items[first:stop])
        first = stop
    return parts
