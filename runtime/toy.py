"""A toy model whose next-token law is an exactly known function of the whole prefix.

It is the fake beside the real decoder: it keeps its own tokens for each sequence, so a wrong
rollback, a wrong position or a sequence mixed up with another changes what it says.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from parallel.model.batch import SequenceRows, lineage
from runtime.errors import ShapeError
from runtime.shard import HeadColumns


def prefix_logits(prefix: Sequence[int], vocab_size: int, seed: int = 0) -> Tensor:
    """Return the toy target's logits after a prefix, [vocab_size], float32."""
    digest = hashlib.blake2b(repr((seed, tuple(prefix))).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randn(vocab_size, generator=generator) * 2.0


class PrefixShard:
    """The toy as a model shard; a drafter's logits are the target's with noise of size `noise`."""

    def __init__(self, vocab_size: int, *, noise: float = 0.0) -> None:
        self.vocab_size = vocab_size
        self.head = HeadColumns(vocab_size, 0)
        self._noise = noise
        self._token_ids: dict[int, list[int]] = {}
        self._capacity: dict[int, int] = {}
        self.num_forwards = 0
        """Forwards made so far."""

    def open(self, slot: int, capacity: int) -> None:
        """Start a sequence."""
        if slot in self._token_ids:
            raise ShapeError(f"slot {slot} is open already")
        self._token_ids[slot] = []
        self._capacity[slot] = capacity

    def free(self, slot: int) -> None:
        """End a sequence."""
        del self._token_ids[slot], self._capacity[slot]

    @property
    def num_open(self) -> int:
        """Sequences that hold cache."""
        return len(self._token_ids)

    def forward(self, rows: Sequence[SequenceRows]) -> Tensor:
        """Append the rows' tokens and return the logits asked for."""
        self.num_forwards += 1
        logits: list[Tensor] = []
        for row in rows:
            token_ids = self._token_ids[row.slot]
            if row.start > len(token_ids):
                raise ShapeError(
                    f"slot {row.slot} holds {len(token_ids)}, rows start at {row.start}"
                )
            if row.moves:
                token_ids[row.start - len(row.moves) : row.start] = [
                    token_ids[place] for place in row.moves
                ]
            token_ids[row.start :] = row.token_ids
            if len(token_ids) > self._capacity[row.slot]:
                raise ShapeError(f"slot {row.slot} outgrew its {self._capacity[row.slot]} tokens")
            stop = len(token_ids)
            before = stop - len(row.parents)
            for end in range(stop - row.num_logits + 1, stop + 1):
                if end <= before:
                    prefix = token_ids[:end]
                else:
                    path = [
                        token_ids[before + node] for node in lineage(row.parents, end - before - 1)
                    ]
                    prefix = token_ids[:before] + path
                logits.append(self._logits(prefix))
        return torch.stack(logits) if logits else torch.zeros(0, self.vocab_size)

    def _logits(self, prefix: Sequence[int]) -> Tensor:
        logits = prefix_logits(prefix, self.vocab_size)
        if self._noise:
            logits = logits + self._noise * prefix_logits(prefix, self.vocab_size, seed=1)
        return logits
