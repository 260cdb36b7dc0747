"""What a job learns from: its model's directory, its samples, and its evaluation set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cluster.train.job_data import JobData, read_job_data
from runtime.models.checkpoint import resolve_model
from runtime.models.tokenizer import Tokenizer
from runtime.training.job.job_config import TrainConfig
from runtime.training.samples import EvalSamples, Sampler
from runtime.training.shared_seed.shared_seed_job import model_digest
from runtime.training.training_data import read_examples


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInputs:
    """The inputs of a job whose workers send gradients."""

    config: TrainConfig
    """The job's, with its steps counted."""
    directory: Path
    """The model's."""
    tokenizer: Tokenizer
    learned: JobData
    tests: EvalSamples
    notes: list[str]
    """What the user should know about the samples."""

    @classmethod
    def read(cls, config: TrainConfig) -> Self:
        """Read the model's tokenizer and the data files.

        Raises:
            ConfigError: the model or the data cannot be used; names file and line.
        """
        directory, data, prefers = resolve_model(config.model), config.data, config.prefers
        tokenizer = Tokenizer.load(directory)
        sampler = Sampler.of(directory, tokenizer, data.max_length)
        learned = read_job_data(data, tokenizer, sampler, prefers=prefers)
        examples = (
            read_examples(Path(data.eval), data, tokenizer, limit=config.num_eval, prefers=prefers)
            if data.eval
            else []
        )
        tests = EvalSamples.of(examples, sampler)
        notes = [learned.note, sampler.cut_note(tests.samples, "evaluation ")]
        return cls(
            config=config.for_samples(len(learned.samples)),
            directory=directory,
            tokenizer=tokenizer,
            learned=learned,
            tests=tests,
            notes=[note for note in notes if note],
        )

    def digests(self) -> dict[str, str]:
        """Return digests of the samples and of the model's weights, as `JobFiles` takes them."""
        base = model_digest(self.directory).hex()
        return {"data_digest": self.learned.digest, "base_digest": base}
