"""The samples of a job: all in memory, or read in windows while the job runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from runtime.models.tokenizer import Tokenizer
from runtime.training.job.job_config import DataConfig
from runtime.training.samples import Sampler
from runtime.training.streaming.streamed_samples import StreamedSamples
from runtime.training.training_data import Sample, TextExample, digest_of, read_examples
from runtime.training.training_step import SampleSizes

_FIRST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class JobData:
    """What a job trains on."""

    samples: list[Sample] | StreamedSamples
    sizes: SampleSizes
    digest: str
    """Equal for equal data."""
    examples: Sequence[TextExample]
    """The first samples as text, or all."""
    note: str
    """What people should know about the samples; may be empty."""

    @property
    def first(self) -> list[Sample]:
        """The first samples."""
        return [self.samples[index] for index in range(min(_FIRST, len(self.samples)))]

    @property
    def known_sizes(self) -> SampleSizes | None:
        """The sizes of the samples; None where they are not known before the samples are read."""
        return None if isinstance(self.samples, StreamedSamples) else self.sizes


def read_job_data(
    data: DataConfig, tokenizer: Tokenizer, sampler: Sampler, *, prefers: bool = False
) -> JobData:
    """Read a job's samples, or open the files that they are read from later.

    Args:
        data: the files.
        tokenizer: the model's.
        sampler: makes the samples.
        prefers: whether records are preferences; these are not read in windows.

    Raises:
        ConfigError: a file cannot be read, or a record cannot be used; names the line. Of files
            that are read later, only the first records are checked.
    """
    if data.buffer is not None:
        streamed = StreamedSamples.open(data, tokenizer, sampler)
        return JobData(
            samples=streamed,
            sizes=streamed.sizes,
            digest=streamed.digest,
            examples=streamed.first_examples(_FIRST),
            note=f"{len(streamed):,} records are read in windows of {data.buffer:,} while training",
        )
    by_file = [
        read_examples(Path(one), data, tokenizer, limit=data.limit, prefers=prefers)
        for one in data.files
    ]
    examples = list(chain.from_iterable(by_file))
    samples = sampler.samples(examples, among_choices=data.among_choices)
    return JobData(
        samples=samples,
        sizes=SampleSizes.of(samples, [len(each) for each in by_file]),
        digest=digest_of(samples),
        examples=examples,
        note=sampler.cut_note(samples),
    )
