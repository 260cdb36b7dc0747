"""Records of preferences, in TRL's forms: a prompt, the chosen answer and the rejected one.

The three are strings, or lists of messages; `chosen` and `rejected` may also be whole conversations
that differ in their last turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runtime.checking.call_arguments import with_arguments
from runtime.checking.chat_messages import Message, messages
from runtime.checking.values import describe
from runtime.errors import InvalidValue
from runtime.training.records.record_fields import field_of, filled_of

ANSWERS = ("chosen", "rejected")
"""The fields of a preference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPreference:
    """A preference among two texts after the same prompt."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPreference:
    """A preference among two conversations that differ in their last turn."""

    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]


def preference_of(record: Mapping[str, object]) -> TextPreference | ChatPreference:
    """Return a record's preference.

    Raises:
        InvalidValue: it has another form, or its answers are the same; names the field.
    """
    chosen, rejected = (field_of(record, name) for name in ANSWERS)
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise InvalidValue(
            f"chosen is {describe(chosen)}, rejected is {describe(rejected)}: write both as "
            "strings or both as lists of messages"
        )
    if chosen == rejected:
        raise InvalidValue("chosen and rejected are the same: there is nothing to prefer")
    if isinstance(chosen, str):
        return _of_texts(record)
    found = [_conversation(record.get("prompt"), record[name], name) for name in ANSWERS]
    if found[0][:-1] != found[1][:-1]:
        raise InvalidValue(
            "chosen and rejected differ before their last turn: they must be answers to the same "
            "conversation"
        )
    return ChatPreference(chosen=found[0], rejected=found[1])


def _of_texts(record: Mapping[str, object]) -> TextPreference:
    if isinstance(record.get("prompt"), list):
        raise InvalidValue(
            "prompt is a list of messages and the answers are strings: write the answers as lists "
            'of messages too, as [{"role": "assistant", "content": ...}]'
        )
    return TextPreference(
        prompt=filled_of(record, "prompt", "nothing to answer"),
        chosen=filled_of(record, "chosen"),
        rejected=filled_of(record, "rejected"),
    )


def _conversation(prompt: object, answer: object, name: str) -> tuple[Message, ...]:
    """Return a prompt and an answer as one conversation that ends with the assistant."""
    turns = with_arguments(messages(answer, name))
    if isinstance(prompt, str):
        turns = _after_text(prompt, turns, name)
    elif prompt is not None:
        before = with_arguments(messages(prompt, "prompt"))
        turns = turns if turns[: len(before)] == before else [*before, *turns]
    if turns[-1]["role"] != "assistant" or len(turns) == 1:
        raise InvalidValue(
            f"{name} must end with a turn of the assistant, after at least one other in it or in "
            "prompt"
        )
    if not (turns[-1]["content"] or turns[-1].get("tool_calls")):
        raise InvalidValue(f"the last turn of {name} is empty: there is nothing to learn")
    return tuple(turns)


def _after_text(prompt: str, turns: Sequence[Message], name: str) -> list[Message]:
    """Return turns with the prompt as the user's turn before them, if they do not hold it."""
    if len(turns) == 1:
        return [{"role": "user", "content": prompt}, *turns]
    if not any(turn["role"] == "user" and turn["content"] == prompt for turn in turns):
        raise InvalidValue(
            f"prompt is no turn of the user in {name}: remove prompt, or leave only the answer in "
            f"{name}"
        )
    return list(turns)
