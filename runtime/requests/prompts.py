"""The forms of a prompt, and their tokens; nothing a client sends is trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runtime.checking.chat_messages import messages
from runtime.checking.prompt_value import token_ids
from runtime.requests.served_model import ServedModel


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A plain text."""

    text: str
    field: str
    """Names the prompt in an error, here and below."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation that the assistant continues."""

    messages: Sequence[Mapping[str, object]]
    """As they arrived, unchecked."""
    field: str
    extra_keys: tuple[str, ...] = ()
    """Keys beside role and content that the wire accepts."""
    tools: tuple[Mapping[str, object], ...] = ()
    """Functions that the assistant may call, in OpenAI's form."""


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids."""

    token_ids: Sequence[object]
    field: str


Prompt = TextPrompt | ChatPrompt | TokenPrompt


def prompt_ids(prompt: Prompt, model: ServedModel) -> tuple[int, ...]:
    """Return the tokens of a prompt; an empty text may have none.

    Raises:
        InvalidValue: the prompt is too long for the context, a message has another form, or a token
            is not in the vocabulary; names the field.
        ConfigError: the conversation does not fit the chat template.
    """
    match prompt:
        case TextPrompt(text, field):
            model.limits.check_text(field, text)
            name, ids = "the prompt", tuple(model.tokenizer.encode(text))
        case ChatPrompt(given, field, extra_keys, tools):
            model.limits.check_chat(field, [_content(message) for message in given])
            turns = messages(given, field, extra_keys=extra_keys)
            name, ids = "the prompt", tuple(model.tokenizer.encode_chat(turns, tools))
        case TokenPrompt(given_ids, field):
            model.limits.check_ids(field, len(given_ids))
            return token_ids(given_ids, field, vocab_size=model.vocab_size, may_be_empty=True)
    return token_ids(ids, name, vocab_size=model.vocab_size, may_be_empty=True)


def _content(message: object) -> object:
    return message.get("content") if isinstance(message, Mapping) else None
