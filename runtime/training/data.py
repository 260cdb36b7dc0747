"""Training samples from .jsonl files: read, rendered, tokenized, with the loss on completions."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from runtime.documents import read_text
from runtime.errors import ConfigError
from runtime.strict_json import parse_object
from runtime.text import Tokenizer
from runtime.training.config import DataConfig


@dataclass(frozen=True, slots=True)
class Example:
    """One sample as text: what is given, and what is learnt."""

    prompt: str
    completion: str
    choices: tuple[str, ...] = ()
    """What the completion was chosen from, where it was."""
    is_chat: bool = False
    """Whether the prompt was made by the chat template, which writes all special tokens."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample as tokens."""

    token_ids: tuple[int, ...]
    num_prompt: int
    """Tokens before the first one that is learnt."""
    choices: tuple[int, ...] = ()
    """Tokens among which the only learnt one is chosen; none: among all."""

    @property
    def num_learnt(self) -> int:
        """Tokens that are learnt."""
        return len(self.token_ids) - self.num_prompt


def read_examples(file: Path, config: DataConfig, tokenizer: Tokenizer) -> list[Example]:
    """Read a file's samples.

    Raises:
        ConfigError: it cannot be read, or a record lacks what is needed; names the line.
    """
    _check_templates(config)
    examples = []
    for number, record in _records(file):
        try:
            examples.append(_example(record, config, tokenizer))
        except ConfigError:  # of the chat template, for all records
            raise
        except (KeyError, ValueError, TypeError) as error:
            raise ConfigError(f"{file}, line {number}: {_reason(error, record)}") from error
        if len(examples) == config.limit:
            break
    if not examples:
        raise ConfigError(f"{file} has no samples")
    return examples


def tokenize(
    example: Example, tokenizer: Tokenizer, max_length: int, *, among_choices: bool = False
) -> Sample:
    """Return a sample of at most `max_length` tokens; a prompt that is too long loses its start.

    Raises:
        ConfigError: it is to be learnt among choices that are not one token each.
    """
    prompt = tokenizer.encode(example.prompt, whole=not example.is_chat)
    completion = tokenizer.encode(example.completion, whole=False)
    if example.is_chat and tokenizer.eos_ids & set(completion):
        while completion[-1] not in tokenizer.eos_ids:  # what templates write between messages
            completion.pop()
    elif not example.choices:  # what is chosen needs no end
        completion += sorted(tokenizer.eos_ids)[:1]  # without one, the model learns to go on
    completion = completion[: max_length - 1]
    prompt = prompt[max(0, len(prompt) + len(completion) - max_length) :]
    if not prompt:  # there is nothing before the first token to foretell it from
        prompt, completion = completion[:1], completion[1:]
    choices: tuple[int, ...] = ()
    if among_choices:
        each = [tokenizer.encode(choice, whole=False) for choice in example.choices]
        if len(completion) != 1 or any(len(tokens) != 1 for tokens in each):
            raise ConfigError(
                f"data.among_choices needs choices of one token each, not {example.choices}"
            )
        choices = tuple(tokens[0] for tokens in each)
    return Sample((*prompt, *completion), len(prompt), choices)


def digest_of(samples: Sequence[Sample]) -> str:
    """Return a digest of samples: equal where the same is learnt."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(repr((sample.token_ids, sample.num_prompt)).encode())
    return digest.hexdigest()


def render(example: Example, sample: Sample, tokenizer: Tokenizer) -> str:
    """Return a sample as it is learnt, what is learnt between brackets."""
    given = tokenizer.decode(sample.token_ids[: sample.num_prompt])
    learnt = tokenizer.decode(sample.token_ids[sample.num_prompt :])
    choices = f"   (of {', '.join(map(repr, example.choices))})" if example.choices else ""
    return f"{given}⟦{learnt}⟧{choices}"


def _records(file: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(read_text(file).split("\n"), start=1):  # others may be in strings
        if line.strip():
            yield number, parse_object(line, f"{file}, line {number}")


def _example(record: Mapping[str, object], config: DataConfig, tokenizer: Tokenizer) -> Example:
    if config.prompt:
        return _from_fields(record, config)
    if "messages" in record:
        return _from_messages(record["messages"], tokenizer)
    if "completion" in record:
        return Example(_text(record, "prompt"), _text(record, "completion"))
    return Example("", _text(record, "text"))


def _check_templates(config: DataConfig) -> None:
    for name, text in (("prompt", config.prompt), ("completion", config.completion)):
        try:
            named = [field for _, field, _, _ in Formatter().parse(text) if field is not None]
        except ValueError as error:
            raise ConfigError(f"data.{name} is {text!r}: {error}; {{{{ is a plain {{") from error
        if any(not field or field.isdecimal() or set(field) & set(".[") for field in named):
            raise ConfigError(f"data.{name} is {text!r}: name a record's fields, as {{question}}")


def _from_fields(record: Mapping[str, object], config: DataConfig) -> Example:
    words = {name: _word(name, record[name], known) for name, known in config.words.items()}
    shown = {name: value for name, value in record.items() if value is not None} | words
    choices: tuple[str, ...] = ()
    for name, known in config.words.items():
        if f"{{{name}}}" in config.completion:
            choices = tuple(config.completion.format_map({**shown, name: word}) for word in known)
    return Example(config.prompt.format_map(shown), config.completion.format_map(shown), choices)


def _word(name: str, value: object, known: Sequence[str]) -> str:
    number = str(value)
    if not number.isdecimal() or int(number) >= len(known):
        raise ValueError(f"{name} is {value!r}: data.words has words for 0 to {len(known) - 1}")
    return known[int(number)]


def _from_messages(messages: object, tokenizer: Tokenizer) -> Example:
    """Take the last answer as what is learnt, with the end that the chat template gives it."""
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages is no list of messages")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not all(
            isinstance(message.get(name), str) for name in ("role", "content")
        ):
            raise ValueError(f"message {number} has no role and content that are texts")
    *before, last = messages
    if last["role"] != "assistant" or not before:
        raise ValueError("messages has to end with one of the assistant, after another")
    prompt = tokenizer.render_chat(before)
    whole = tokenizer.render_chat(messages, is_open=False)
    answer = whole.removeprefix(prompt) if whole.startswith(prompt) else last["content"]
    return Example(prompt, answer, is_chat=True)


def _text(record: Mapping[str, object], name: str) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, no text")
    if not value.strip() and name != "prompt":
        raise ValueError(f"{name} is empty: there is nothing to learn")
    return value


def _reason(error: Exception, record: Mapping[str, object]) -> str:
    if isinstance(error, KeyError):
        there: Sequence[str] = list(record)
        return f"no field {error.args[0]!r}; the record has {', '.join(there)}"
    return str(error)
