"""Turns examples into samples within the model's vocabulary and context."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.errors import ConfigError
from runtime.models.checkpoint_files import read_model_config
from runtime.models.tokenizer import Tokenizer
from runtime.training.training_data import Sample, TextExample, tokenize


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt whose answers are scored."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Makes samples of examples, and rejects those that do not fit the model."""

    tokenizer: Tokenizer
    model: str
    """The model's directory, for errors."""
    vocab_size: int
    """Number of rows of its embedding."""
    max_positions: int
    """Its context, in tokens."""
    max_length: int
    """Length in tokens at which samples are cut."""

    @classmethod
    def of(cls, directory: Path, tokenizer: Tokenizer, max_length: int) -> "Sampler":
        """Return the sampler of a model.

        Raises:
            ConfigError: its configuration cannot be read, or `max_length` exceeds its context.
        """
        config = read_model_config(directory)
        if max_length > config.max_positions:
            raise ConfigError(
                f"`data.max_length` is {max_length}, the context of {directory} holds "
                f"{config.max_positions} tokens: set it to at most {config.max_positions}"
            )
        return cls(
            tokenizer=tokenizer,
            model=str(directory),
            vocab_size=config.vocab_size,
            max_positions=config.max_positions,
            max_length=max_length,
        )

    def samples(
        self, examples: Sequence[TextExample], *, among_choices: bool = False
    ) -> list[Sample]:
        """Return the examples as tokens.

        Raises:
            ConfigError: one has a token that the model lacks, does not fit its context, or leaves
                nothing to learn; names file and line.
        """
        return [self._sample(example, among_choices=among_choices) for example in examples]

    def prompts(self, examples: Sequence[TextExample], max_answer: int) -> list[Prompt]:
        """Return the examples' prompts, cut to their last tokens.

        Args:
            examples: their completions are ignored.
            max_answer: longest answer, in tokens.

        Raises:
            ConfigError: as for `samples`.
        """
        found = []
        for example in examples:
            token_ids = self.tokenizer.encode(example.prompt, whole=not example.is_chat)
            token_ids = token_ids[-self.max_length :]
            self._check(token_ids, example, max_answer)
            found.append(Prompt(example.prompt, tuple(token_ids)))
        return found

    def cut_note(self, samples: Sequence[Sample], kind: str = "") -> str:
        """Return a note about samples of a kind that were cut; empty if none was."""
        num_cut = sum(sample.num_cut > 0 for sample in samples)
        if not num_cut:
            return ""
        return (
            f"{num_cut:,} of {len(samples):,} {kind}samples are longer than `data.max_length`, "
            f"{self.max_length} tokens, and lose the start of their prompt or the end of their "
            "completion"
        )

    def _sample(self, example: TextExample, *, among_choices: bool) -> Sample:
        try:
            sample = tokenize(example, self.tokenizer, self.max_length, among_choices=among_choices)
        except ConfigError as error:
            raise ConfigError(f"{example.where}: {error}") from error
        self._check((*sample.token_ids, *sample.choices), example, 0)
        if sample.rejected is not None:
            self._check(sample.rejected.token_ids, example, 0)
        if not sample.num_loss_tokens:
            raise ConfigError(
                f"{example.where}: one token alone leaves nothing to learn: write more text"
            )
        return sample

    def _check(self, token_ids: Sequence[int], example: TextExample, max_answer: int) -> None:
        if not token_ids:
            raise ConfigError(f"{example.where}: the prompt has no tokens: write at least one word")
        if max(token_ids) >= self.vocab_size:
            token = self.tokenizer.decode([max(token_ids)])
            raise ConfigError(
                f"{example.where}: token {max(token_ids)} ({token!r}) is not in the embedding of "
                f"{self.model}, which has {self.vocab_size} rows: its tokenizer belongs to another "
                "model"
            )
        if len(token_ids) + max_answer > self.max_positions:
            answer = f" and its answer up to {max_answer}" if max_answer else ""
            raise ConfigError(
                f"{example.where}: the sample has {len(token_ids)} tokens{answer}, the context of "
                f"{self.model} holds {self.max_positions}: set `data.max_length` to at most "
                f"{self.max_positions - max_answer}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSamples:
    """The evaluation set of a job."""

    samples: list[Sample]
    groups: list[list[Sample]]
    """The alternatives of each sample; empty if samples have no choices."""
    right: list[int]
    """Index of the right alternative of each group."""
    prompts: list[Prompt]
    """Prompts, where answers are scored and nothing else is measured."""

    @classmethod
    def of(cls, tests: Sequence[TextExample], sampler: Sampler) -> "EvalSamples":
        """Return the evaluation set for losses, or for accuracies if all tests have choices.

        Raises:
            ConfigError: a test does not fit the model; names file and line.
        """
        has_choices = bool(tests) and all(test.choices for test in tests)
        groups = [
            sampler.samples([replace(test, completion=choice) for choice in test.choices])
            for test in tests
            if has_choices
        ]
        right = [test.choices.index(test.completion) for test in tests if has_choices]
        return cls(samples=sampler.samples(tests), groups=groups, right=right, prompts=[])

    @classmethod
    def of_prompts(
        cls, tests: Sequence[TextExample], sampler: Sampler, max_answer: int
    ) -> "EvalSamples":
        """Return the evaluation set for rewards.

        Raises:
            ConfigError: a prompt does not fit the model; names file and line.
        """
        prompts = sampler.prompts(tests, max_answer)
        return cls(samples=[], groups=[], right=[], prompts=prompts)
