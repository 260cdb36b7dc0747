"""Check prompts: text, token ids of any library's types, or a conversation."""

from collections.abc import Mapping
from typing import Any

from runtime.checking.chat_messages import Message, messages
from runtime.checking.values import describe, items, text, whole_number
from runtime.errors import InvalidValue

MAX_TOKEN_ID = 2**31 - 1
_BESIDE_IDS = {"attention_mask", "token_type_ids", "special_tokens_mask", "offset_mapping"}

CheckedPrompt = str | tuple[int, ...] | tuple[Message, ...]


def prompt(
    value: object, field: str = "prompt", *, extra_keys: tuple[str, ...] = ()
) -> CheckedPrompt:
    """Return a prompt as a string, as a tuple of token ids or as a tuple of messages.

    Token ids may be a list, a range, an array, a tensor, or what a Hugging Face tokenizer returns
    for one text.

    Args:
        value: the prompt as the caller gave it.
        field: names the prompt in an error.
        extra_keys: further keys of messages that the caller accepts.

    Raises:
        InvalidValue: it is none of these, or is empty, or an item is invalid; names the position.
    """
    if isinstance(value, str):
        if not value:
            raise InvalidValue(f"{field} is empty: write at least one word")
        return text(value, field)
    if isinstance(value, Mapping):
        return token_ids(_input_ids(value, field), f"{field}.input_ids")
    given = items(value, field, "token ids, a list of messages, or a string")
    if any(isinstance(one, Mapping) for one in given):
        return messages(given, field, extra_keys=extra_keys)
    return token_ids(given, field)


def check_prompt_length(num_tokens: int, *, prompt: str, model: str, max_positions: int) -> None:
    """Raise unless a prompt has tokens and leaves room for output in the model's context.

    Args:
        num_tokens: length of the prompt.
        prompt: names the prompt in an error.
        model: names the model in an error.
        max_positions: tokens that the model's context holds.

    Raises:
        InvalidValue: the prompt is empty or too long.
    """
    if num_tokens == 0:
        raise InvalidValue(f"{prompt} has no tokens: write at least one word")
    if num_tokens >= max_positions:
        raise InvalidValue(
            f"{prompt} has {num_tokens} tokens, the context of {model} holds {max_positions}: "
            "shorten the prompt"
        )


def token_ids(
    value: object, field: str, *, vocab_size: int | None = None, may_be_empty: bool = False
) -> tuple[int, ...]:
    """Return token ids as ints; a batch of one row is that row.

    Raises:
        InvalidValue: the list is empty, or an id is not an integer, negative or not below
            `vocab_size`; names its position.
    """
    given = items(value, field, "token ids")
    if given and all(_is_row(row) for row in given):
        if len(given) > 1:
            raise InvalidValue(f"{field} is a batch of {len(given)} prompts: send them one by one")
        given, field = items(given[0], f"{field}[0]", "token ids"), f"{field}[0]"
    if not given and not may_be_empty:
        raise InvalidValue(f"{field} is empty: give at least one token")
    maximum = MAX_TOKEN_ID if vocab_size is None else vocab_size - 1
    return tuple(_token_id(one, f"{field}[{i}]", maximum) for i, one in enumerate(given))


def _token_id(value: object, field: str, maximum: int) -> int:
    if isinstance(value, str | Mapping) or _is_row(value):
        raise InvalidValue(
            f"{field} is {describe(value)}: a list holds either token ids or messages"
        )
    token = whole_number(value, field)
    if not 0 <= token <= maximum:
        raise InvalidValue(f"{field} is {describe(token)}: token ids are between 0 and {maximum}")
    return token


def _is_row(value: object) -> bool:
    shape = getattr(value, "shape", None)
    return isinstance(value, list | tuple) or bool(shape)


def _input_ids(value: Mapping[Any, object], field: str) -> object:
    if "input_ids" not in value:
        keys = ", ".join(map(str, value)) or "nothing"
        raise InvalidValue(
            f"{field} has {keys}: write a list of messages, or a tokenizer's result with input_ids"
        )
    unknown = sorted(str(key) for key in value.keys() - _BESIDE_IDS - {"input_ids"})
    if unknown:
        raise InvalidValue(f"{field}.{unknown[0]} is not supported: pass only input_ids")
    if "attention_mask" in value:
        mask = items(value["attention_mask"], f"{field}.attention_mask", "integers")
        rows = [
            items(row, f"{field}.attention_mask", "integers") if _is_row(row) else [row]
            for row in mask
        ]
        if any(whole_number(one, f"{field}.attention_mask") != 1 for row in rows for one in row):
            raise InvalidValue(f"{field}.attention_mask masks tokens: pass the prompt unpadded")
    return value["input_ids"]
