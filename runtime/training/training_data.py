"""Training samples from data files: read, rendered and tokenized; the loss is on completions."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from runtime.checking.call_arguments import with_arguments
from runtime.checking.chat_messages import Message, check_beside, messages
from runtime.checking.values import describe, number, text
from runtime.errors import ConfigError, InvalidValue
from runtime.models.completions import (
    Answer,
    encode_completion,
    encode_turns,
    render_answer,
    render_turns,
)
from runtime.models.tokenizer import IncrementalDecoder, Tokenizer
from runtime.training.data_files import open_records
from runtime.training.job.config_checks import check_data, template_fields
from runtime.training.job.job_config import DataConfig
from runtime.training.sharegpt import messages_of

_LEARNED = ("messages", "conversations", "completion", "text")
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
    later: tuple[Answer, ...] = ()
    """Further turns of a conversation that are learned, where all are."""


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
    gaps: tuple[tuple[int, int], ...] = ()
    """First token and end of what is not in the loss after the first learned turn."""

    @property
    def num_loss_tokens(self) -> int:
        """Number of tokens in the loss."""
        return (
            len(self.token_ids) - self.num_prompt - sum(stop - first for first, stop in self.gaps)
        )

    @property
    def learned_positions(self) -> list[int]:
        """Positions of the tokens in the loss."""
        return [index for first, stop in self.parts for index in range(first, stop)]

    @property
    def parts(self) -> list[tuple[int, int]]:
        """First token and end of each span in the loss."""
        firsts = [self.num_prompt, *(stop for _, stop in self.gaps)]
        stops = [*(first for first, _ in self.gaps), len(self.token_ids)]
        return list(zip(firsts, stops, strict=True))


def read_examples(
    file: Path, config: DataConfig, tokenizer: Tokenizer, *, limit: int | None = None
) -> list[TextExample]:
    """Read a file's samples, or only the first `limit`.

    Raises:
        ConfigError: it cannot be read, or a record lacks what is needed; names the line.
    """
    check_data(config)
    examples = []
    for where, record in open_records(file):
        examples.append(example_of(where, record, config, tokenizer))
        if len(examples) == limit:
            break
    if not examples:
        raise ConfigError(f"{file} has no samples")
    return examples


def example_of(
    where: str, record: Mapping[str, object], config: DataConfig, tokenizer: Tokenizer
) -> TextExample:
    """Return a record as text.

    Raises:
        ConfigError: the record lacks what is needed; names its place.
    """
    try:
        return replace(_example(record, config, tokenizer), where=where)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def tokenize(
    example: TextExample, tokenizer: Tokenizer, max_length: int, *, among_choices: bool = False
) -> Sample:
    """Return a sample of at most `max_length` tokens; a prompt that is too long loses its start.

    Raises:
        ConfigError: it has choices that are not one token each.
    """
    if example.later:
        return _turns(example, tokenizer, max_length)
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
        gaps = (sample.gaps,) if sample.gaps else ()
        digest.update(repr((sample.token_ids, sample.num_prompt, *gaps)).encode())
    return digest.hexdigest()


def render(example: TextExample, sample: Sample, tokenizer: Tokenizer) -> str:
    """Return a sample as text, with the learned parts in brackets."""
    decoder = IncrementalDecoder(tokenizer)
    shown, end = "", 0
    for first, stop in sample.parts:
        given = decoder.push(sample.token_ids[end:first])
        learned = decoder.push(sample.token_ids[first:stop])
        if stop == len(sample.token_ids):
            learned += decoder.finish()
        shown, end = f"{shown}{given}⟦{learned}⟧", stop
    choices = f"   (of {', '.join(map(repr, example.choices))})" if example.choices else ""
    return shown + choices


def _turns(example: TextExample, tokenizer: Tokenizer, max_length: int) -> Sample:
    """Return a conversation of which several turns are learned; a long one loses its start."""
    turns = encode_turns(tokenizer, (Answer(example.prompt, example.completion), *example.later))
    token_ids, learned = list(turns.token_ids), list(turns.learned)
    if token_ids[-1] not in tokenizer.eos_ids and tokenizer.eos_id is not None:
        token_ids.append(tokenizer.eos_id)
        learned[-1] = (learned[-1][0], len(token_ids))
    num_cut = max(0, len(token_ids) - max_length)
    end = min(len(token_ids), learned[-1][0] + max_length - 1)
    first = max(0, end - max_length)
    # The first token has no context to predict it from.
    spans = [(max(start - first, 1), min(stop, end) - first) for start, stop in learned]
    spans = [(start, stop) for start, stop in spans if start < stop]
    gaps = tuple((before[1], after[0]) for before, after in pairwise(spans))
    return Sample(tuple(token_ids[first:end]), spans[0][0], (), num_cut, gaps)


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
        return _from_messages(record["messages"], config, tokenizer)
    if "conversations" in learned:
        return _from_messages(messages_of(record["conversations"]), config, tokenizer)
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


def _from_messages(value: object, config: DataConfig, tokenizer: Tokenizer) -> TextExample:
    """Learn the last answer or all, with the end that the chat template gives them."""
    found = with_arguments(messages(value))
    if found[-1]["role"] != "assistant" or len(found) == 1:
        raise InvalidValue("messages must end with one of the assistant, after at least one other")
    for index in range(0 if config.learn == "all" else len(found) - 1, len(found)):
        _check_answer(found, index)
    if config.learn == "last":
        turns: tuple[Answer, ...] = (render_answer(tokenizer, found),)
    else:
        turns = render_turns(tokenizer, found)
    return TextExample(turns[0].prompt, turns[0].completion, is_chat=True, later=turns[1:])


def _check_answer(found: Sequence[Message], index: int) -> None:
    """Raise for an assistant's turn from which nothing can be learned."""
    turn = found[index]
    if turn["role"] != "assistant":
        return
    if not (turn["content"] or turn.get("tool_calls")):
        raise InvalidValue(f"messages[{index}].content is empty: there is nothing to learn")
    if index == 0:
        raise InvalidValue(
            "messages[0] is of the assistant, with nothing before it to answer: add a turn before "
            'it, or set `data.learn` to "last"'
        )


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
