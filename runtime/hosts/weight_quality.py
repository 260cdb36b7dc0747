"""Scores of texts by several readings of one model, compared with a reference."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from parallel.batch import SequenceRows
from parallel.group import SoloGroup
from parallel.model.cache import SoleCache
from parallel.model.score_quality import ScoreQuality, compare_scores
from runtime.hosts.torch_threads import use_threads
from runtime.models.scored_texts import ScoredText
from runtime.models.weights import load_decoder

_CHUNK = 64
"""Tokens that are scored at once: their logits take a few megabytes."""
_PAGE = 16
_SLOT = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """A checkpoint in a weight format."""

    directory: Path
    weights: str


class WeightQuality:
    """Several readings of a model, side by side in this process."""

    def __init__(
        self,
        reference: Reading,
        others: Mapping[str, Reading],
        *,
        num_threads: int,
        max_tokens: int,
    ) -> None:
        """Load each reading once.

        Args:
            reference: what the others are compared with.
            others: by a name of the caller's; the reference may be among them.
            num_threads: threads of the matrix products.
            max_tokens: the longest text.

        Raises:
            ConfigError: a checkpoint cannot be loaded in its format.
        """
        use_threads(num_threads)
        self._reference, self._others = reference, dict(others)
        readings = dict.fromkeys([reference, *others.values()])
        self._readers = {reading: _Reader(reading, max_tokens) for reading in readings}

    def compare(self, text: ScoredText) -> dict[str, ScoreQuality]:
        """Return the quality of each reading on a text."""
        found = dict.fromkeys(self._others, ScoreQuality())
        streams = [reader.read(text) for reader in self._readers.values()]
        stop = text.num_given
        with torch.inference_mode():
            for chunk in zip(*streams, strict=True):
                logits = dict(zip(self._readers, chunk, strict=True))
                reference = logits[self._reference]
                start, stop = stop, stop + len(reference)
                tokens = torch.tensor(text.token_ids[start:stop])
                for name, reading in self._others.items():
                    found[name] += compare_scores(logits[reading], reference, tokens)
        return found


class _Reader:
    """A model that reads texts, one after the other."""

    def __init__(self, reading: Reading, max_tokens: int) -> None:
        decoder = load_decoder(
            reading.directory,
            SoloGroup(),
            weights=reading.weights,
            device=torch.device("cpu"),
        )
        self._decoder = decoder
        self._cache = SoleCache(
            num_layers=decoder.stack.num_cached_layers,
            num_kv_heads=decoder.stack.heads.num_kv,
            head_dim=decoder.config.head_dim,
            num_pages=-(-max_tokens // _PAGE),
            page_size=_PAGE,
        )

    def read(self, text: ScoredText) -> Iterator[Tensor]:
        """Yield the logits before the scored tokens, [up to 64, V], in chunks."""
        self._cache.open(_SLOT, len(text.token_ids))
        try:
            last = len(text.token_ids) - 1  # nothing is scored after the last token
            for start in range(0, last, _CHUNK):
                tokens = text.token_ids[start : min(start + _CHUNK, last)]
                num_scored = min(len(tokens), start + len(tokens) - (text.num_given - 1))
                rows = SequenceRows(
                    slot=_SLOT, start=start, token_ids=tokens, num_logits=max(0, num_scored)
                )
                logits = self._decoder.forward([rows], self._cache)
                if num_scored > 0:
                    yield logits
        finally:
            self._cache.free(_SLOT)
