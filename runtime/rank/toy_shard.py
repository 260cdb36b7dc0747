"""A toy model whose next-token logits are a known function of the whole prefix.

It is the fake of the real decoder: it stores the tokens of each sequence, so a wrong rollback, a
wrong position or a mix-up of sequences changes its logits.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from parallel.batch import SequenceRows, path_to
from parallel.model.backend import ForwardOutputs
from parallel.model.pages import PageTable
from runtime.errors import ShapeError
from runtime.rank.shard import HeadColumns

_FUZZ = 0.2


def prefix_logits(prefix: Sequence[int], vocab_size: int, seed: int = 0) -> Tensor:
    """Return the toy target's logits after a prefix, [vocab_size], float32."""
    digest = hashlib.blake2b(repr((seed, tuple(prefix))).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randn(vocab_size, generator=generator) * 2.0


class PrefixShard:
    """The toy model as a shard; a drafter's logits are the target's plus noise of size `noise`.

    Tokens are stored on pages as keys and values are, so wrongly shared pages, or pages written
    while another sequence reads them, change its logits.
    """

    def __init__(
        self, vocab_size: int, *, page_size: int, noise: float = 0.0, max_positions: int = 0
    ) -> None:
        """Start with an empty cache.

        Args:
            vocab_size: rows of the embedding; a token beyond is an error, as in a real model.
            page_size: tokens of a page.
            noise: the size of the noise on its logits.
            max_positions: the longest sequence it reads; 0 is unlimited.
        """
        self.vocab_size = vocab_size
        self.max_positions = max_positions
        self.head = HeadColumns(vocab_size, 0)
        self._noise = noise
        self._page_size = page_size
        self._store: dict[int, int] = {}
        self._tables: dict[int, PageTable] = {}
        self.num_forwards = 0
        """The number of forwards so far."""
        self.num_read = 0
        """The number of tokens read so far."""

    def hold(self, slot: int, pages: Sequence[int], length: int) -> None:
        """Add pages to a sequence."""
        if slot in self._tables:
            self._tables[slot].pages.extend(pages)
        else:
            self._tables[slot] = PageTable(list(pages), self._page_size, length)

    def free(self, slot: int) -> None:
        """Remove a sequence."""
        del self._tables[slot]

    @property
    def num_open(self) -> int:
        """The number of sequences in the cache."""
        return len(self._tables)

    def forward(self, rows: Sequence[SequenceRows], width: int) -> ForwardOutputs:
        """Append the rows' tokens and return the requested logits; wide forwards are noisier."""
        self.num_forwards += 1
        logits: list[Tensor] = []
        for row in rows:
            self.num_read += len(row.token_ids)
            token_ids = self._append(row)
            stop = len(token_ids)
            before = stop - len(row.parents)
            for end in range(stop - row.num_logits + 1, stop + 1):
                if end <= before:
                    prefix = token_ids[:end]
                else:
                    path = [
                        token_ids[before + node] for node in path_to(row.parents, end - before - 1)
                    ]
                    prefix = token_ids[:before] + path
                logits.append(self._logits(prefix, self._noise + _FUZZ * (width - 1)))
        empty = torch.zeros(0, self.vocab_size)
        return ForwardOutputs(torch.stack(logits) if logits else empty)

    def _append(self, row: SequenceRows) -> list[int]:
        table = self._tables[row.slot]
        if row.start > table.length:
            raise ShapeError(f"slot {row.slot} holds {table.length}, rows start at {row.start}")
        stop = row.start + len(row.token_ids)
        if self.max_positions and stop > self.max_positions:
            raise IndexError(f"position {stop - 1} of {self.max_positions}")
        if max(row.token_ids, default=0) >= self.vocab_size:
            raise IndexError(f"token {max(row.token_ids)} of {self.vocab_size}")
        if stop > table.capacity:
            raise ShapeError(f"slot {row.slot} exceeds its capacity of {table.capacity} tokens")
        kept = [self._store[table.address(index)] for index in row.moves]
        written = [*kept, *row.token_ids]
        for index, token in enumerate(written, stop - len(written)):
            self._store[table.address(index)] = token
        table.length = stop
        return [self._store[address] for address in table.addresses(0, stop)]

    def _logits(self, prefix: Sequence[int], noise: float) -> Tensor:
        logits = prefix_logits(prefix, self.vocab_size)
        if noise:
            logits = logits + noise * prefix_logits(prefix, self.vocab_size, seed=1)
        return logits
