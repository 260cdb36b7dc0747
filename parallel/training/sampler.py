"""The samples of a step: a function of the step and the seed alone."""

from collections.abc import Sequence

import numpy as np

MIX_PERIOD = 1000
"""Samples after which the shares of several files are met exactly."""


def step_samples(step: int, *, num_samples: int, batch: int, seed: int) -> list[int]:
    """Return the samples of a step, in order: each epoch is a permutation of its own.

    Args:
        step: number of the step, from 0.
        num_samples: samples of the data.
        batch: samples of a step; may exceed num_samples.
        seed: random seed of the permutations.
    """
    found: list[int] = []
    place = step * batch
    while len(found) < batch:
        epoch, first = divmod(place + len(found), num_samples)
        order = np.random.default_rng((seed, epoch)).permutation(num_samples)
        found += order[first : first + batch - len(found)].tolist()
    return found


def mixed_samples(
    step: int, *, sizes: Sequence[int], shares: Sequence[float], batch: int, seed: int
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
    """
    counts = _period_counts(shares)
    firsts = np.cumsum([0, *sizes])
    orders: dict[tuple[int, int], np.ndarray] = {}
    found = []
    for number in range(step * batch, (step + 1) * batch):
        period, index = divmod(number, MIX_PERIOD)
        if (period, -1) not in orders:
            files = np.repeat(np.arange(len(sizes)), counts)
            draw = np.random.default_rng((seed, period, len(sizes)))
            orders[period, -1] = draw.permutation(files)
        order = orders[period, -1]
        file = int(order[index])
        drawn = period * counts[file] + int(np.count_nonzero(order[:index] == file))
        epoch, position = divmod(drawn, sizes[file])
        if (epoch, file) not in orders:
            draw = np.random.default_rng((seed, epoch, file))
            orders[epoch, file] = draw.permutation(sizes[file])
        found.append(int(firsts[file] + orders[epoch, file][position]))
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
