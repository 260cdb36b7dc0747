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
from runtime.training.records.preference_records import (
    ANSWERS,
    TextPreference,
    preference_of,
)
from runtime.training.records.record_fields import (
    field_of,
    filled_of,
    missing_field,
    string_of,
    tools_of,
)
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
    rejected: str | None = None
    """The completion that `completion` is preferred to, where the job learns preferences."""


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
    rejected: "Sample | None" = None
    """The same prompt with the rejected answer, where the job learns preferences."""

    @property
    def answers(self) -> tuple["Sample", ...]:
        """The sample, and what it is preferred to."""
        return (self,) if self.rejected is None else (self, self.rejected)

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
    file: Path,
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    limit: int | None = None,
    prefers: bool = False,
) -> list[TextExample]:
    """Read a file's samples, or only the first `limit`.

    Args:
        file: as `open_records` reads it.
        config: how records become samples.
        tokenizer: renders conversations.
        limit: number of records to read; None is all.
        prefers: whether records are preferences.

    Raises:
        ConfigError: it cannot be read, or a record lacks what is needed; names the line.
    """
    check_data(config)
    examples = []
    for where, record in open_records(file):
        examples.append(example_of(where, record, config, tokenizer, prefers=prefers))
        if len(examples) == limit:
            break
    if not examples:
        raise ConfigError(f"{file} has no samples")
    return examples


def example_of(
    where: str,
    record: Mapping[str, object],
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    prefers: bool = False,
) -> TextExample:
    """Return a record as text; with `prefers`, it is a preference.

    Raises:
        ConfigError: the record lacks what is needed; names its place.
    """
    try:
        read = _preference if prefers else _example
        return replace(read(record, config, tokenizer), where=where)
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
    if example.rejected is not None:
        return _pair(example, example.rejected, tokenizer, max_length)
    prompt, completion = _ended(example, example.completion, tokenizer)
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
        others = tuple(one.token_ids for one in sample.answers[1:])
        digest.update(repr((sample.token_ids, sample.num_prompt, *gaps, *others)).encode())
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
    if example.choices:
        shown += f"   (of {', '.join(map(repr, example.choices))})"
    if sample.rejected is not None:
        answer = sample.rejected.token_ids[sample.rejected.num_prompt :]
        shown += f"   (rather than ⟦{tokenizer.decode(answer)}⟧)"
    return shown


def _pair(example: TextExample, rejected: str, tokenizer: Tokenizer, max_length: int) -> Sample:
    """Return a preference as its chosen answer, which holds the rejected one.

    Both have the same prompt, which loses its start if the longer of them is too long.
    """
    prompt, chosen = _ended(example, example.completion, tokenizer)
    _, other = _ended(example, rejected, tokenizer)
    if not (prompt and chosen and other):
        raise ConfigError("the prompt or an answer has no tokens: write at least one word")
    answers = [chosen[: max_length - 1], other[: max_length - 1]]
    if answers[0] == answers[1]:
        raise ConfigError(
            f"the first {max_length - 1} tokens of the chosen and the rejected answer are the "
            "same: raise `data.max_length`, or remove the record"
        )
    num_cut = max(0, len(prompt) + max(len(chosen), len(other)) - max_length)
    kept = prompt[max(0, len(prompt) + max(map(len, answers)) - max_length) :]
    first, second = (Sample((*kept, *answer), len(kept), (), num_cut) for answer in answers)
    return replace(first, rejected=second)


def _ended(
    example: TextExample, completion: str, tokenizer: Tokenizer
) -> tuple[list[int], list[int]]:
    """Return the tokens of an example's prompt, and those of a completion with its end token."""
    prompt, tokens = _prompted(example, completion, tokenizer)
    has_end = bool(tokens) and tokens[-1] in tokenizer.eos_ids
    if not has_end and not example.choices and tokenizer.eos_id is not None:
        tokens.append(tokenizer.eos_id)  # without one, the model learns to continue
    return prompt, tokens


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


def _preference(
    record: Mapping[str, object], config: DataConfig, tokenizer: Tokenizer
) -> TextExample:
    """Return a record's preference as an example."""
    if config.prompt:
        better, worse = (
            _from_fields(record, replace(config, completion=template))
            for template in (config.completion, config.rejected)
        )
        if better.completion == worse.completion:
            raise InvalidValue("both completions are the same: there is nothing to prefer")
        return replace(better, choices=(), rejected=worse.completion)
    check_beside(record, known=("tools",))
    tools = tools_of(record)
    found = preference_of(record)
    if isinstance(found, TextPreference):
        check_beside(record)
        return TextExample(found.prompt, found.chosen, rejected=found.rejected)
    chosen, other = (
        render_answer(tokenizer, turns, tools) for turns in (found.chosen, found.rejected)
    )
    return TextExample(chosen.prompt, chosen.completion, is_chat=True, rejected=other.completion)


def _example(record: Mapping[str, object], config: DataConfig, tokenizer: Tokenizer) -> TextExample:
    if config.prompt:
        return _from_fields(record, config)
    if all(record.get(name) is not None for name in ANSWERS):
        raise InvalidValue(
            'the record is a preference, with chosen and rejected: set `objective` to "dpo", or '
            "name the learned fields in `data.prompt` and `data.completion`"
        )
    learned = [name for name in _LEARNED if record.get(name) is not None]
    if len(learned) > 1:
        raise InvalidValue(
            f"the record has {' and '.join(learned)}: keep one of them, or name the learned fields "
            "in `data.prompt` and `data.completion`"
        )
    if "messages" in learned or "conversations" in learned:
        check_beside(record, known=("tools",))
        turns = record.get("messages")
        turns = messages_of(record["conversations"]) if turns is None else turns
        return _from_messages(turns, config, tokenizer, tools_of(record))
    check_beside(record)
    if "completion" in learned:
        return TextExample(string_of(record, "prompt"), filled_of(record, "completion"))
    if record.get("prompt") is not None:
        raise missing_field("completion", record)
    return TextExample("", filled_of(record, "text"))


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
        value = field_of(self._record, name)
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
    value = field_of(record, name)
    digits = "" if isinstance(value, bool) else str(value)
    if not (digits.isascii() and digits.isdecimal() and int(digits) < len(known)):
        raise InvalidValue(
            f"{name} is {describe(value)}: `data.words` has words for 0 to {len(known) - 1}"
        )
    return known[int(digits)]


def _from_messages(
    value: object,
    config: DataConfig,
    tokenizer: Tokenizer,
    tools: Sequence[Mapping[str, object]],
) -> TextExample:
    """Learn the last answer or all, with the end that the chat template gives them."""
    found = with_arguments(messages(value))
    if found[-1]["role"] != "assistant" or len(found) == 1:
        raise InvalidValue("messages must end with one of the assistant, after at least one other")
    for index in range(0 if config.learn == "all" else len(found) - 1, len(found)):
        _check_answer(found, index)
    if config.learn == "last":
        turns: tuple[Answer, ...] = (render_answer(tokenizer, found, tools),)
    else:
        turns = render_turns(tokenizer, found, tools)
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
