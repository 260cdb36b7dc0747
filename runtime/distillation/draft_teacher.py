"""The target as the teacher: its most probable tokens at every position of a corpus.

The lessons are cached in a directory of safetensors files, one for a range of records; a resumed
run computes only the missing ones.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from parallel.batch import SequenceRows
from parallel.group import SoloGroup
from parallel.model.cache import SoleCache
from runtime.distillation.draft_corpus import CorpusRecord
from runtime.models.weights import load_decoder
from runtime.weights.weight_choice import choose_weights

# Shape suffixes: N = positions, V = vocabulary, C = candidates.

NUM_CANDIDATES = 16
_RECORDS_PER_FILE = 128
_BATCH_TOKENS = 1024
_PAGE = 16


@dataclass(frozen=True, slots=True)
class Lesson:
    """The teacher's candidates at each position of one answer."""

    ids: Tensor
    """[N, C] int64, the most probable tokens, in descending order."""
    probs: Tensor
    """[N, C] float32, rounded to float16 as on disk, so that a resumed run trains identically."""


class Teacher:
    """A whole model in this process that scores whole answers in one forward."""

    def __init__(self, directory: Path, *, weights: str, device: torch.device) -> None:
        self._decoder = load_decoder(directory, SoloGroup(), weights=weights, device=device)
        self._dtype = choose_weights(weights, device.type).activations
        self._device = device

    def teach(self, records: list[CorpusRecord]) -> list[Lesson]:
        """Return a lesson for each record, in order."""
        lessons: list[Lesson] = []
        for batch in _batches(records):
            lessons += self._teach_batch(batch)
        return lessons

    def _teach_batch(self, records: list[CorpusRecord]) -> list[Lesson]:
        lengths = [len(record.prompt_ids) + len(record.output_ids) for record in records]
        config, shard = self._decoder.config, self._decoder.stack.heads
        cache = SoleCache(
            num_layers=config.num_layers,
            num_kv_heads=shard.num_kv,
            head_dim=config.head_dim,
            num_pages=sum(-(-length // _PAGE) for length in lengths),
            page_size=_PAGE,
            dtype=self._dtype,
            device=self._device,
        )
        rows = []
        for slot, (record, length) in enumerate(zip(records, lengths, strict=True)):
            cache.open(slot, length)
            read = (record.prompt_ids + record.output_ids)[:-1]
            rows.append(
                SequenceRows(slot=slot, start=0, token_ids=read, num_logits=len(record.output_ids))
            )
        with torch.inference_mode():
            logits_NV = self._decoder.forward(rows, cache)
            best = logits_NV.topk(NUM_CANDIDATES, dim=1)
            probs = (best.values - logits_NV.logsumexp(1, keepdim=True)).exp()
        sizes = [len(record.output_ids) for record in records]
        return _lessons(best.indices.cpu(), probs.half().float().cpu(), sizes)


def teach_corpus(
    teacher: Callable[[], Teacher], records: list[CorpusRecord], directory: Path
) -> Iterator[list[Lesson]]:
    """Yield the lessons of all records, in groups, from the cache on disk where possible.

    Args:
        teacher: builds the teacher; called only if a lesson is missing.
        records: the records, each with an answer.
        directory: the directory of the cached lessons.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made: Teacher | None = None
    for first in range(0, len(records), _RECORDS_PER_FILE):
        group = records[first : first + _RECORDS_PER_FILE]
        file = directory / f"{first // _RECORDS_PER_FILE:05d}.safetensors"
        read = _read(file, group)
        if read is None:
            made = made or teacher()
            read = made.teach(group)
            _write(file, group, read)
        yield read


def _batches(records: list[CorpusRecord]) -> Iterator[list[CorpusRecord]]:
    batch: list[CorpusRecord] = []
    tokens = 0
    for record in records:
        length = len(record.prompt_ids) + len(record.output_ids)
        if batch and tokens + length > _BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(record)
        tokens += length
    if batch:
        yield batch


def _write(file: Path, records: list[CorpusRecord], lessons: list[Lesson]) -> None:
    partial = file.with_suffix(".partial")
    save_file(
        {
            "keys": _keys(records),
            "ids": torch.cat([lesson.ids for lesson in lessons]).to(torch.int32),
            "probs": torch.cat([lesson.probs for lesson in lessons]).half(),
        },
        str(partial),
    )
    partial.replace(file)


def _read(file: Path, records: list[CorpusRecord]) -> list[Lesson] | None:
    """Return the lessons of these records, or None if the file does not hold exactly those."""
    if not file.is_file():
        return None
    try:
        with safe_open(str(file), framework="pt") as handle:
            keys, ids, probs = (handle.get_tensor(name) for name in ("keys", "ids", "probs"))
    except SafetensorError:
        return None  # damaged: computed again
    if not torch.equal(keys, _keys(records)):
        return None
    sizes = [len(record.output_ids) for record in records]
    return _lessons(ids.long(), probs.float(), sizes)


def _lessons(ids_NC: Tensor, probs_NC: Tensor, sizes: list[int]) -> list[Lesson]:
    parts = zip(torch.split(ids_NC, sizes), torch.split(probs_NC, sizes), strict=True)
    return [Lesson(ids.clone(), probs.clone()) for ids, probs in parts]


def _keys(records: list[CorpusRecord]) -> Tensor:
    """Return the index and the lengths of each record, which identify a file's records."""
    return torch.tensor([(r.index, len(r.prompt_ids), len(r.output_ids)) for r in records])
