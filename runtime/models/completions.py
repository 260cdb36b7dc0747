"""Tokenize a completion exactly as generation would continue its prompt.

The prompt's tokens are those that generation makes of it, and the completion's are those of the
same text after them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import ConfigError
from runtime.models.chat_template import MARK, Message, is_rendered
from runtime.models.tokenizer import Tokenizer

_BEFORE = ("\n", ".", "a", "0", "#")
"""Texts to put before a completion, to tokenize it as the middle of a text."""


@dataclass(frozen=True, slots=True)
class PromptedTokens:
    """A prompt and its completion as tokens."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The last turn of a conversation as text."""

    prompt: str
    """The conversation up to the assistant's turn, as generation renders it."""
    completion: str
    """The assistant's turn, including the end token that the template writes after it."""


@dataclass(frozen=True, slots=True)
class TurnTokens:
    """A conversation as tokens."""

    token_ids: tuple[int, ...]
    learned: tuple[tuple[int, int], ...]
    """First token and end of each assistant's turn."""


def encode_completion(
    tokenizer: Tokenizer, prompt: str, completion: str, *, whole: bool
) -> PromptedTokens:
    """Return the tokens of a prompt as generation makes them, and those of its completion.

    Args:
        tokenizer: the model's tokenizer.
        prompt: if it is empty, the special tokens that begin a text are the prompt.
        completion: the text directly after the prompt.
        whole: whether to add the tokenizer's special tokens; a rendered chat has its own.

    Raises:
        ConfigError: the completion cannot be tokenized after the prompt; names the remedy.
    """
    joined = tokenizer.encode(prompt + completion, whole=False)
    if not prompt:
        return PromptedTokens(_opening(tokenizer, joined, completion, whole=whole), tuple(joined))
    bare = tokenizer.encode(prompt, whole=False)
    if joined[: len(bare)] == bare:
        following = joined[len(bare) :]
    else:  # a token spans both: generation splits there, and continues with smaller ones
        following = _inside(tokenizer, completion)
        if tokenizer.decode([*bare, *following]) != tokenizer.decode(joined):
            raise ConfigError(
                f"the tokens of the completion {completion[:40]!r} cannot follow those of its "
                f"prompt, which ends with {prompt[-20:]!r}: move the space between them to the "
                "start of the completion"
            )
    prompt_ids = tokenizer.encode(prompt) if whole else bare
    return PromptedTokens(tuple(prompt_ids), tuple(following))


def render_answer(
    tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Message] = ()
) -> Answer:
    """Return a conversation's prompt and its last answer, with the template's end token.

    Args:
        tokenizer: renders conversations.
        messages: the conversation.
        tools: definitions of functions that the assistant may call.

    Raises:
        ConfigError: the template fails, changes the answer, or does not continue its own prompt.
    """
    *before, last = messages
    prompt = tokenizer.render_chat(before, tools=tools)
    whole = tokenizer.render_chat(messages, is_open=False, tools=tools)
    if not whole.startswith(prompt):
        same = next(i for i, char in enumerate(prompt) if whole[i : i + 1] != char)
        raise ConfigError(
            f"the chat template starts the assistant with {prompt[same:][:40]!r} in a prompt and "
            f"with {whole[same:][:40]!r} in a conversation: begin the answer as in a prompt, with "
            "the reasoning if that is opened, or train on prompt and completion"
        )
    rest = whole[len(prompt) :]
    content = last.get("content")
    if not content:  # only tool calls
        return Answer(prompt, _up_to_end(tokenizer, rest))
    if not is_rendered(content, prompt[-len(content) :] + rest):  # a prompt may open the reasoning
        raise ConfigError(
            f"the chat template changes the answer {content[:40]!r} to {rest[:40]!r}: train on "
            "prompt and completion"
        )
    with_mark = [*before, {**last, "content": MARK}]
    marked = tokenizer.render_chat(with_mark, is_open=False, tools=tools)
    closing = marked.rpartition(MARK)[2]
    if not rest.endswith(closing):
        raise ConfigError(
            f"the chat template ends the answer {content[:40]!r} with unusual text: train on "
            "prompt and completion"
        )
    return Answer(prompt, rest[: len(rest) - len(closing)] + _up_to_end(tokenizer, closing))


def render_turns(
    tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Message] = ()
) -> tuple[Answer, ...]:
    """Return all turns of the assistant, each with the text since the one before it.

    The arguments are those of `render_answer`.

    Raises:
        ConfigError: as `render_answer` does, or the template changes a turn when others follow.
    """
    found: list[Answer] = []
    known = ""
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        answer = render_answer(tokenizer, messages[: number + 1], tools)
        if not answer.prompt.startswith(known):
            raise ConfigError(
                f"the chat template changes a turn before messages[{number}] when others follow, "
                'as one that drops earlier reasoning does: set `data.learn` to "last"'
            )
        found.append(Answer(answer.prompt[len(known) :], answer.completion))
        known = answer.prompt + answer.completion
    return tuple(found)


def encode_turns(tokenizer: Tokenizer, turns: Sequence[Answer]) -> TurnTokens:
    """Return the tokens of a conversation, split where generation splits them.

    Raises:
        ConfigError: as `encode_completion` does.
    """
    token_ids: list[int] = []
    learned = []
    text = ""
    for turn in turns:
        token_ids += _following(tokenizer, text, turn.prompt)
        first = len(token_ids)
        text += turn.prompt
        token_ids += _following(tokenizer, text, turn.completion)
        learned.append((first, len(token_ids)))
        text += turn.completion
    return TurnTokens(tuple(token_ids), tuple(learned))


def _following(tokenizer: Tokenizer, before: str, text: str) -> tuple[int, ...]:
    return encode_completion(tokenizer, before, text, whole=False).completion_ids


def _opening(
    tokenizer: Tokenizer, joined: list[int], completion: str, *, whole: bool
) -> tuple[int, ...]:
    """Return the special tokens that the tokenizer puts before a text."""
    if not whole:
        return ()
    ids = tokenizer.encode(completion)
    size = next((i for i in range(len(ids)) if ids[i : i + len(joined)] == joined), 0)
    return tuple(ids[:size])


def _inside(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the tokens of the middle of a text: without the space that begins a text."""
    for before in _BEFORE:
        alone = tokenizer.encode(before, whole=False)
        ids = tokenizer.encode(before + text, whole=False)
        if ids[: len(alone)] == alone:
            return ids[len(alone) :]
    return tokenizer.encode(text, whole=False)


def _up_to_end(tokenizer: Tokenizer, closing: str) -> str:
    """Return the template's text after an answer, up to the first end token if it has one."""
    found = [(start, -len(end)) for end in tokenizer.end_texts if (start := closing.find(end)) >= 0]
    if not found:
        return closing
    start, size = min(found)
    return closing[: start - size]
