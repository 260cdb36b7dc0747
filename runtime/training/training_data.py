"""Training samples from .jsonl files: read, rendered and tokenized; the loss is on completions."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtime.checking.chat_messages import check_beside, messages
from runtime.checking.values import describe, number, text
from runtime.errors import ConfigError, InvalidValue
from runtime.files.strict_json import read_json_lines
from runtime.models.completions import encode_completion, render_answer
from runtime.models.tokenizer import IncrementalDecoder, Tokenizer
from runtime.training.job.config_checks import check_data, template_fields
from runtime.training.job.job_config import DataConfig

_LEARNED = ("messages", "completion", "text")
"""Fields that hold what is learned, where no template does."""


@dataclass(frozen=True, slots=True)
class TextExample:
    """One sample as text: the prompt, and the completion that is learned."""

    prompt: str
    completion: str
    choices: tuple[str, ...] = ()
    """The choices of the completion, if it has any."""
    is_chat: bool = False
    """Whether the prompt was made by the chat template, which writes all special tokens."""
    where: str = ""
    """File and line of the record, for errors."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample as tokens."""

    token_ids: tuple[int, ...]
    num_prompt: int
    """Tokens before the first one in the loss."""
    choices: tuple[int, ...] = ()
    """Tokens among which the one learned token is chosen; empty: among all."""
    num_cut: int = field(default=0, compare=False)
    """Tokens that were cut because the sample was too long."""

    @property
    def num_loss_tokens(self) -> int:
        """Number of tokens in the loss."""
        return len(self.token_ids) - self.num_prompt


def read_examples(file: Path, config: DataConfig, tokenizer: Tokenizer) -> list[TextExample]:
    """Read a file's samples.

    Raises:
        ConfigError: it cannot be read, or a record lacks what is needed; names the line.
    """
    check_data(config)
    examples = []
    for line, record in read_json_lines(file):
        where = f"{file}, line {line}"
        try:
            examples.append(replace(_example(record, config, tokenizer), where=where))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        if len(examples) == config.limit:
            break
    if not examples:
        raise ConfigError(f"{file} has no samples")
    return examples


def tokenize(
    example: TextExample, tokenizer: Tokenizer, max_length: int, *, among_choices: bool = False
) -> Sample:
    """Return a sample of at most `max_length` tokens; a prompt that is too long loses its start.

    Raises:
        ConfigError: it has choices that are not one token each.
    """
    prompt, completion = _prompted(example, example.completion, tokenizer)
    has_end = bool(completion) and completion[-1] in tokenizer.eos_ids
    if not has_end and not example.choices and tokenizer.eos_id is not None:
        completion.append(tokenizer.eos_id)  # without one, the model learns to continue
    num_cut = max(0, len(prompt) + len(completion) - max_length)
    completion = completion[: max_length - 1]
    prompt = prompt[max(0, len(prompt) + len(completion) - max_length) :]
    if not prompt:  # the first token has no context to predict it from
        prompt, completion = completion[:1], completion[1:]
    choices: tuple[int, ...] = ()
    if among_choices:
        each = [_prompted(example, choice, tokenizer)[1] for choice in example.choices]
        if len(completion) != 1 or any(len(tokens) != 1 for tokens in each):
            raise ConfigError(
                f"`data.among_choices` needs choices of one token each, not {example.choices}"
            )
        choices = tuple(tokens[0] for tokens in each)
    return Sample((*prompt, *completion), len(prompt), choices, num_cut)


def digest_of(samples: Sequence[Sample]) -> str:
    """Return a digest of samples, equal for equal samples."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(repr((sample.token_ids, sample.num_prompt)).encode())
    return digest.hexdigest()


def render(example: TextExample, sample: Sample, tokenizer: Tokenizer) -> str:
    """Return a sample as text, with the learned part in brackets."""
    decoder = IncrementalDecoder(tokenizer)
    given = decoder.push(sample.token_ids[: sample.num_prompt])
    learned = decoder.push(sample.token_ids[sample.num_prompt :]) + decoder.finish()
    choices = f"   (of {', '.join(map(repr, example.choices))})" if example.choices else ""
    return f"{given}⟦{learned}⟧{choices}"


def _prompted(
    example: TextExample, completion: str, tokenizer: Tokenizer
) -> tuple[list[int], list[int]]:
    """Return the tokens of an example's prompt, and those with which a completion follows it."""
    tokens = encode_completion(tokenizer, example.prompt, completion, whole=not example.is_chat)
    return list(tokens.prompt_ids), list(tokens.completion_ids)


def _example(record: Mapping[str, object], config: DataConfig, tokenizer: Tokenizer) -> TextExample:
    if config.prompt:
        return _from_fields(record, config)
    learned = [name for name in _LEARNED if record.get(name) is not None]
    if len(learned) > 1:
        raise InvalidValue(
            f"the record has {' and '.join(learned)}: keep one of them, or name the learned fields "
            "in `data.prompt` and `data.completion`"
        )
    check_beside(record)
    if "messages" in learned:
        return _from_messages(record["messages"], tokenizer)
    if "completion" in learned:
        return TextExample(_string(record, "prompt"), _filled(record, "completion"))
    if record.get("prompt") is not None:
        raise InvalidValue(_no_field("completion", record))
    return TextExample("", _filled(record, "text"))


def _from_fields(record: Mapping[str, object], config: DataConfig) -> TextExample:
    words = {name: _word(name, record, known) for name, known in config.words.items()}
    values = _Values(record, words)
    completion = config.completion.format_map(values)
    if not completion.strip():
        raise InvalidValue("the completion is empty: there is nothing to learn")
    choices: tuple[str, ...] = ()
    for name in template_fields(config.completion, "data.completion") & config.words.keys():
        shown = (_Values(record, words | {name: word}) for word in config.words[name])
        choices = tuple(map(config.completion.format_map, shown))
    return TextExample(config.prompt.format_map(values), completion, choices)


class _Values(Mapping[str, object]):
    """The fields of a record for templates: strings, numbers, and words for numbers."""

    def __init__(self, record: Mapping[str, object], words: Mapping[str, str]) -> None:
        self._record = record
        self._words = words

    def __getitem__(self, name: str) -> object:
        if name in self._words:
            return self._words[name]
        value = _field(self._record, name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            number(value, name)
            return value
        if not isinstance(value, str):
            raise InvalidValue(f"{name} is {describe(value)}: it must be a string or a number")
        return text(value, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._record)

    def __len__(self) -> int:
        return len(self._record)


def _word(name: str, record: Mapping[str, object], known: Sequence[str]) -> str:
    value = _field(record, name)
    digits = "" if isinstance(value, bool) else str(value)
    if not (digits.isascii() and digits.isdecimal() and int(digits) < len(known)):
        raise InvalidValue(
            f"{name} is {describe(value)}: `data.words` has words for 0 to {len(known) - 1}"
        )
    return known[int(digits)]


def _from_messages(value: object, tokenizer: Tokenizer) -> TextExample:
    """Learn the last answer, with the end that the chat template gives it."""
    found = messages(value)
    *before, last = found
    if last["role"] != "assistant" or not before:
        raise InvalidValue("messages must end with one of the assistant, after at least one other")
    if not (last["content"] or last.get("tool_calls")):
        raise InvalidValue(f"messages[{len(before)}].content is empty: there is nothing to learn")
    answer = render_answer(tokenizer, found)
    return TextExample(answer.prompt, answer.completion, is_chat=True)


def _filled(record: Mapping[str, object], name: str) -> str:
    value = _string(record, name)
    if not value.strip():
        raise InvalidValue(f"{name} is empty: there is nothing to learn")
    return value


def _string(record: Mapping[str, object], name: str) -> str:
    return text(_field(record, name), name)


def _field(record: Mapping[str, object], name: str) -> object:
    if name not in record:
        raise InvalidValue(_no_field(name, record))
    return record[name]


def _no_field(name: str, record: Mapping[str, object]) -> str:
    return f"no field {name!r}; the record has {', '.join(record) or 'none'}"
