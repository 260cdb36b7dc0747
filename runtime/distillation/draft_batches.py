"""The examples that a drafter trains on, and their batches and order."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from runtime.distillation.draft_corpus import CorpusRecord
from runtime.distillation.draft_teacher import Lesson
from runtime.errors import ConfigError

_POOL = 16  # batches whose sequences are sorted by length together


@dataclass(frozen=True, slots=True)
class DraftExample:
    """One prompt with its answer and lesson."""

    record: CorpusRecord
    lesson: Lesson

    @property
    def length(self) -> int:
        """The number of tokens that the drafter reads."""
        return len(self.record.prompt_ids) + len(self.record.output_ids) - 1


def endless_batches(
    examples: list[DraftExample], batch_tokens: int, *, seed: int, first: int
) -> Iterator[list[DraftExample]]:
    """Yield batches forever; the order of each epoch is a function of the seed and its number.

    Args:
        examples: the training examples.
        batch_tokens: the maximum number of tokens in a batch, padding included.
        seed: the seed of the order.
        first: the number of the first batch to yield.

    Raises:
        ConfigError: `examples` is empty.
    """
    if not examples:
        raise ConfigError("the corpus has no training examples")
    skipped, epoch = 0, 0
    while True:
        batches = _epoch(examples, batch_tokens, seed, epoch)
        if skipped + len(batches) > first:
            yield from batches[max(0, first - skipped) :]
        skipped += len(batches)
        epoch += 1


def grouped(examples: list[DraftExample], batch_tokens: int) -> list[list[DraftExample]]:
    """Return groups of consecutive examples with at most `batch_tokens` tokens after padding."""
    groups: list[list[DraftExample]] = []
    group: list[DraftExample] = []
    longest = 0
    for example in examples:
        longest = max(longest, example.length)
        if group and longest * (len(group) + 1) > batch_tokens:
            groups.append(group)
            group, longest = [], example.length
        group.append(example)
    return [*groups, group] if group else groups


def _epoch(
    examples: list[DraftExample], batch_tokens: int, seed: int, epoch: int
) -> list[list[DraftExample]]:
    """Return the batches of an epoch: shuffled, then sorted by length in pools to save padding."""
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order = [examples[i] for i in rng.permutation(len(examples))]
    batches: list[list[DraftExample]] = []
    pool: list[DraftExample] = []
    tokens = 0
    for example in order:
        pool.append(example)
        tokens += example.length
        if tokens >= _POOL * batch_tokens:
            batches += grouped(sorted(pool, key=lambda e: e.length), batch_tokens)
            pool, tokens = [], 0
    batches += grouped(sorted(pool, key=lambda e: e.length), batch_tokens)
    return [batches[i] for i in rng.permutation(len(batches))]
