"""The samples of a step: a function of the step and the seed alone."""

import numpy as np


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
