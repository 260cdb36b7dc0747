"""Render conversations with a model's chat template; reject a template that drops content."""

import importlib
import re
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from runtime.errors import ConfigError

Message = Mapping[str, Any]
MARK = "0f7c2e9a"
"""A placeholder for a message's content, which no template contains."""
_KNOWN_SHAPES = 256
_WORD = re.compile(r"\w+")


class ChatTemplate:
    """A chat template as transformers renders it; safe to use from several threads."""

    def __init__(
        self,
        source: str | Mapping[str, str] | None,
        special_tokens: Mapping[str, Any],
        name: str,
        *,
        limit_s: float = 30.0,
    ) -> None:
        """Take a template.

        Args:
            source: its text, or several templates by name, or nothing.
            special_tokens: the special tokens that templates know by name.
            name: the model, for errors.
            limit_s: how long it may take.
        """
        self._source = source
        self._special_tokens = dict(special_tokens)
        self._name = name
        self._limit_s = limit_s
        self._complete_shapes: set[tuple[str, ...]] = set()
        """Sequences of roles of which the template renders all contents."""
        self._is_stuck = False

    @property
    def tool_source(self) -> str:
        """The template that renders tools; "" without a template."""
        template = self._source or ""
        if isinstance(template, Mapping):  # several by name; transformers takes this one for tools
            template = template.get("tool_use", template.get("default", ""))
        return str(template)

    def render(
        self, messages: Sequence[Message], *, is_open: bool, tools: Sequence[Message] = ()
    ) -> str:
        """Return a conversation as text; an open one ends where the assistant's turn begins.

        Args:
            messages: the conversation.
            is_open: whether the assistant's turn follows.
            tools: definitions of functions that the assistant may call, in OpenAI's form.

        Raises:
            ConfigError: there is no template, it fails, it does not end, or it drops
                part of a message or a tool.
        """
        if not self._source:
            raise ConfigError(f"{self._name} has no chat template: give the prompt as plain text")
        text = self._render(messages, is_open=is_open, tools=tools)
        for tool in tools:
            name = str(tool["function"]["name"])
            if name not in text:
                raise ConfigError(
                    f"the chat template of {self._name} drops the tool {name!r}: use a model that "
                    "supports tools"
                )
        self._check_all_rendered(messages, is_open=is_open, tools=tools)
        for number, message in enumerate(messages):
            if message["role"] != "assistant" and not is_rendered(message.get("content"), text):
                raise self._dropped(number, message)
            for call in message.get("tool_calls") or ():
                name = str(call.get("function", call).get("name", ""))
                if name not in text:
                    raise ConfigError(
                        f"the chat template of {self._name} drops the tool call {name!r} of "
                        f"messages[{number}]: remove it, or use a model that supports tools"
                    )
        return text

    def _render(
        self, messages: Sequence[Message], *, is_open: bool, tools: Sequence[Message] = ()
    ) -> str:
        """Render in a thread of its own: nothing else can end a template that loops forever."""
        if self._is_stuck:
            raise self._timed_out()
        tokenizer = self._tokenizer
        made: list[str] = []
        raised: list[Exception] = []

        def work() -> None:
            try:
                made.append(
                    tokenizer.apply_chat_template(
                        [dict(message) for message in messages],
                        tools=[dict(tool) for tool in tools] or None,
                        tokenize=False,
                        add_generation_prompt=is_open,
                        **self._special_tokens,
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
                f"the chat template of {self._name} rejects the conversation: {_reason(error)}"
            ) from error
        if not made:
            self._is_stuck = True
            raise self._timed_out()
        return made[0]

    @cached_property
    def _tokenizer(self) -> Any:
        """A tokenizer of transformers with this template, and no vocabulary.

        Imported here: that takes 1 s of CPU time beside torch (2026-11-30), and plain prompts do
        without.
        """
        transformers = importlib.import_module("transformers")
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordLevel({"": 0}, unk_token="")),
            chat_template=self._source,
        )

    def _check_all_rendered(
        self, messages: Sequence[Message], *, is_open: bool, tools: Sequence[Message]
    ) -> None:
        """Reject a template that drops the content of a message, whatever it is."""
        shape = tuple(str(message["role"]) for message in messages)
        if shape in self._complete_shapes and not tools:
            return
        marks = [f"{MARK}x{number}x" for number in range(len(messages))]
        marked = [
            {**message, "content": mark} if message.get("content") else message
            for message, mark in zip(messages, marks, strict=True)
        ]
        try:
            text = self._render(marked, is_open=is_open, tools=tools)
        except ConfigError:  # it inspects the contents: the check of the words must suffice
            return
        for number, (message, mark) in enumerate(zip(messages, marks, strict=True)):
            if message.get("content") and mark not in text:
                raise self._dropped(number, message)
        if not tools and all(message.keys() == {"role", "content"} for message in messages):
            if len(self._complete_shapes) >= _KNOWN_SHAPES:
                self._complete_shapes.clear()
            self._complete_shapes.add(shape)

    def _dropped(self, number: int, message: Message) -> ConfigError:
        return ConfigError(
            f"the chat template of {self._name} drops the content of messages[{number}] "
            f"(role {message['role']}): use roles that the template supports, or give the "
            "prompt as plain text"
        )

    def _timed_out(self) -> ConfigError:
        return ConfigError(
            f"the chat template of {self._name} did not end within {self._limit_s:.3g} s: "
            "correct its loops"
        )


def is_rendered(content: object, text: str) -> bool:
    """Return whether a text has a content as it is, trimmed, or with its words in order."""
    if not isinstance(content, str) or content.strip() in text:
        return True
    start = 0
    for word in _WORD.findall(content):
        start = text.find(word, start)
        if start < 0:
            return False
        start += len(word)
    return True


def _reason(error: Exception) -> str:
    message = str(error).strip()
    kind = type(error).__name__
    return message if kind == "TemplateError" and message else f"{kind}: {message}"
