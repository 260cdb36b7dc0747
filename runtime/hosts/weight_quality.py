"""Scores of texts under several weight formats of one model, compared with its float32 reading."""

from collections.abc import Iterator, Sequence
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

REFERENCE = "float32"
_CHUNK = 64
"""Tokens that are scored at once: their logits take a few megabytes."""
_PAGE = 16
_SLOT = 0


class WeightQuality:
    """A model in float32 and in other formats, side by side in this process."""

    def __init__(
        self, directory: Path, formats: Sequence[str], *, num_threads: int, max_tokens: int
    ) -> None:
        """Load the model once for each format, and in float32.

        Args:
            directory: the checkpoint.
            formats: values of `weights`.
            num_threads: threads of the matrix products.
            max_tokens: the longest text.

        Raises:
            ConfigError: the model cannot be loaded in a format.
        """
        use_threads(num_threads)
        names = dict.fromkeys([REFERENCE, *formats])
        self._readers = {name: _Reader(directory, name, max_tokens) for name in names}
        self._formats = tuple(formats)

    def compare(self, text: ScoredText) -> dict[str, ScoreQuality]:
        """Return the quality of each format on a text."""
        found = dict.fromkeys(self._formats, ScoreQuality())
        streams = [reader.read(text) for reader in self._readers.values()]
        stop = text.num_given
        with torch.inference_mode():
            for chunk in zip(*streams, strict=True):
                logits = dict(zip(self._readers, chunk, strict=True))
                start, stop = stop, stop + len(logits[REFERENCE])
                tokens = torch.tensor(text.token_ids[start:stop])
                for name in self._formats:
                    found[name] += compare_scores(logits[name], logits[REFERENCE], tokens)
        return found


class _Reader:
    """A model that reads texts, one after the other."""

    def __init__(self, directory: Path, name: str, max_tokens: int) -> None:
        decoder = load_decoder(directory, SoloGroup(), weights=name, device=torch.device("cpu"))
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
