"""Samples of files larger than memory: a few windows of them are held at a time."""

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import overload

from runtime.models.tokenizer import Tokenizer
from runtime.training.job.job_config import DataConfig
from runtime.training.samples import Sampler
from runtime.training.streaming.record_windows import RecordWindows, open_windows
from runtime.training.training_data import Sample, TextExample, example_of
from runtime.training.training_step import SampleSizes

_HELD = 2
"""Windows of each file that are held: a step may end one and begin another."""


class StreamedSamples:
    """The samples of a job's files by number, one file after another."""

    def __init__(
        self,
        files: Sequence[RecordWindows],
        data: DataConfig,
        tokenizer: Tokenizer,
        sampler: Sampler,
    ) -> None:
        """Read samples when they are needed, in windows of `data.buffer` records."""
        assert data.buffer is not None
        self._files = files
        self._data = data
        self._tokenizer = tokenizer
        self._sampler = sampler
        self._size = data.buffer
        self._stops = list(accumulate(file.num_records for file in files))
        self._held: OrderedDict[tuple[int, int], list[Sample]] = OrderedDict()

    @classmethod
    def open(cls, data: DataConfig, tokenizer: Tokenizer, sampler: Sampler) -> "StreamedSamples":
        """Find the windows of a job's files; reads each file once.

        Raises:
            ConfigError: a file cannot be read, or has no records.
        """
        assert data.buffer is not None
        files = [open_windows(Path(one), data.buffer, limit=data.limit) for one in data.files]
        return cls(files, data, tokenizer, sampler)

    def __len__(self) -> int:
        """Return the number of samples of all files."""
        return self._stops[-1]

    def __getitem__(self, index: int) -> Sample:
        """Return a sample.

        Raises:
            ConfigError: a record of its window cannot be used; names its line.
        """
        file, number = self._place(index)
        window, position = divmod(number, self._size)
        return self._window(file, window)[position]

    @property
    def digest(self) -> str:
        """A digest of all files' contents."""
        whole = hashlib.sha256("".join(file.digest for file in self._files).encode())
        return whole.hexdigest()

    @property
    def sizes(self) -> SampleSizes:
        """The sizes of the samples, each found when it is needed."""
        return SampleSizes(
            num_tokens=_Each(self, lambda sample: len(sample.token_ids)),
            num_loss_tokens=_Each(self, lambda sample: sample.num_loss_tokens),
            num_of_files=[file.num_records for file in self._files],
        )

    def first_examples(self, count: int) -> list[TextExample]:
        """Return the first samples of the first file as text."""
        return self._examples(0, 0)[:count]

    def _place(self, index: int) -> tuple[int, int]:
        """Return a sample's file, and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = bisect_right(self._stops, index)
        return file, index - (self._stops[file - 1] if file else 0)

    def _window(self, file: int, window: int) -> list[Sample]:
        key = (file, window)
        if key not in self._held:
            while len(self._held) >= _HELD * len(self._files):
                self._held.popitem(last=False)
            examples = self._examples(file, window)
            is_choice = self._data.among_choices
            self._held[key] = self._sampler.samples(examples, among_choices=is_choice)
        self._held.move_to_end(key)
        return self._held[key]

    def _examples(self, file: int, window: int) -> list[TextExample]:
        records = self._files[file].read(window)
        return [example_of(*record, self._data, self._tokenizer) for record in records]


class _Each(Sequence[int]):
    """A number of each sample."""

    def __init__(self, samples: StreamedSamples, of: Callable[[Sample], int]) -> None:
        self._samples = samples
        self._of = of

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return self._of(self._samples[index])
