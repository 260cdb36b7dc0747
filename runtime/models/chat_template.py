"""Render conversations with a model's chat template, and refuse one that loses what was said."""

import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import ConfigError

Message = Mapping[str, Any]
MARK = "0f7c2e9a"
"""Stands for what a user says; no template writes it."""
_KNOWN_SHAPES = 256
_WORD = re.compile(r"\w+")


class ChatTemplate:
    """The chat template of a tokenizer of transformers; safe to use from several threads."""

    def __init__(self, tokenizer: Any, name: str, *, limit_s: float = 30.0) -> None:
        self._tokenizer = tokenizer
        self._name = name
        self._limit_s = limit_s
        self._sound: set[tuple[str, ...]] = set()
        """Sequences of roles whose contents all reach the text."""
        self._is_stuck = False

    def render(self, messages: Sequence[Message], *, is_open: bool) -> str:
        """Return a conversation as text; an open one ends where the assistant starts to speak.

        Raises:
            ConfigError: there is no template, it fails, it does not end, or it drops
                part of a message.
        """
        if not self._tokenizer.chat_template:
            raise ConfigError(f"{self._name} has no chat template: give the prompt as plain text")
        text = self._render(messages, is_open=is_open)
        self._check_places(messages, is_open=is_open)
        for number, message in enumerate(messages):
            if message["role"] != "assistant" and not is_said(message.get("content"), text):
                raise self._left_out(number, message)
            for call in message.get("tool_calls") or ():
                name = str(call.get("function", call).get("name", ""))
                if name not in text:
                    raise ConfigError(
                        f"the chat template of {self._name} leaves out the tool call {name!r} of "
                        f"messages[{number}]: remove it, or take a model that knows tools"
                    )
        return text

    def _render(self, messages: Sequence[Message], *, is_open: bool) -> str:
        """Render in a thread of its own: nothing else can end a template that loops forever."""
        if self._is_stuck:
            raise self._endless()
        made: list[str] = []
        raised: list[Exception] = []

        def work() -> None:
            try:
                made.append(
                    self._tokenizer.apply_chat_template(
                        [dict(message) for message in messages],
                        tokenize=False,
                        add_generation_prompt=is_open,
                    )
                )
            except Exception as error:  # a template can raise anything
                raised.append(error)

        thread = threading.Thread(target=work, name="chat template", daemon=True)
        thread.start()
        thread.join(self._limit_s)
        if raised:
            error = raised[0]
            raise ConfigError(
                f"the chat template of {self._name} refuses the conversation: {_reason(error)}"
            ) from error
        if not made:
            self._is_stuck = True
            raise self._endless()
        return made[0]

    def _check_places(self, messages: Sequence[Message], *, is_open: bool) -> None:
        """Refuse a template that has no place for one of the contents, whatever it is."""
        shape = tuple(str(message["role"]) for message in messages)
        if shape in self._sound:
            return
        marks = [f"{MARK}x{number}x" for number in range(len(messages))]
        marked = [
            {**message, "content": mark} if message.get("content") else message
            for message, mark in zip(messages, marks, strict=True)
        ]
        try:
            text = self._render(marked, is_open=is_open)
        except ConfigError:  # it looks into the contents: the check of the words has to do
            return
        for number, (message, mark) in enumerate(zip(messages, marks, strict=True)):
            if message.get("content") and mark not in text:
                raise self._left_out(number, message)
        if all(message.keys() == {"role", "content"} for message in messages):
            if len(self._sound) >= _KNOWN_SHAPES:
                self._sound.clear()
            self._sound.add(shape)

    def _left_out(self, number: int, message: Message) -> ConfigError:
        return ConfigError(
            f"the chat template of {self._name} leaves out what messages[{number}] says "
            f"(role {message['role']}): use roles that the template knows, or give the prompt as "
            "plain text"
        )

    def _endless(self) -> ConfigError:
        return ConfigError(
            f"the chat template of {self._name} did not end within {self._limit_s:.3g} s: "
            "correct its loops"
        )


def is_said(content: object, text: str) -> bool:
    """Whether a content is in a text: as it is, trimmed, or with its words in order if escaped."""
    if not isinstance(content, str) or content.strip() in text:
        return True
    place = 0
    for word in _WORD.findall(content):
        place = text.find(word, place)
        if place < 0:
            return False
        place += len(word)
    return True


def _reason(error: Exception) -> str:
    message = str(error).strip()
    kind = type(error).__name__
    return message if kind == "TemplateError" and message else f"{kind}: {message}"
