"""Find the calls of tools in an answer, in the forms that chat templates define.

Hermes' form, of Qwen 2.5 and 3, SmolLM and others: `<tool_call>{"name": ..., "arguments": {...}}
</tool_call>`, anywhere in the text. Llama 3's form: the whole text is `{"name": ...,
"parameters": {...}}`. What looks like a call and is none stays text.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from runtime.errors import ConfigError
from runtime.files.documents import DocumentError
from runtime.files.strict_json import parse_json

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class ToolForm(Enum):
    """How a model writes calls."""

    HERMES = auto()
    LLAMA = auto()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call."""

    name: str
    arguments: str
    """A JSON object."""


def tool_form(template: str, model: str) -> ToolForm:
    """Return the form of calls that a chat template defines.

    Raises:
        ConfigError: it defines none, or one that is not known here.
    """
    if _OPEN in template and _CLOSE in template and "<function=" not in template:
        return ToolForm.HERMES
    if '"parameters": dictionary of argument name' in template:
        return ToolForm.LLAMA
    raise ConfigError(
        f"`tools` are given, and the chat template of {model} defines no calls in the form of "
        "Hermes or Llama 3: leave out `tools`, or serve a model that supports them"
    )


class ToolCallReader:
    """Splits a growing text into text and calls."""

    def __init__(self, form: ToolForm | None) -> None:
        """Start with an empty text; None finds no calls."""
        self._form = form
        self._held = ""
        self._space = ""
        self._is_inside = self._is_after_call = False
        self._is_text = False
        """Of Llama's form: whether the text does not begin as a call does."""

    def push(self, text: str) -> list[str | ToolCall]:
        """Add text; return what has become certain."""
        if self._form is None or self._is_text:
            return [text] if text else []
        self._held += text
        if self._form is ToolForm.LLAMA:
            start = self._held.lstrip()
            if not start or start.startswith("{"):
                return []
            self._is_text = True
            text, self._held = self._held, ""
            return [text]
        return self._split()

    def finish(self) -> list[str | ToolCall]:
        """Return the rest, at the end of the text."""
        rest, self._held = self._held, ""
        if self._form is ToolForm.LLAMA:
            call = _call(rest, "parameters")
        else:
            call = _call(rest.removeprefix(_OPEN), "arguments") if self._is_inside else None
            rest = rest if self._is_after_call and not rest else self._space + rest
        if call is not None:
            return [call]
        return [rest] if rest else []

    def _split(self) -> list[str | ToolCall]:
        found: list[str | ToolCall] = []
        while True:
            if self._is_inside:
                body, close, rest = self._held.partition(_CLOSE)
                if not close:
                    return found
                call = _call(body.removeprefix(_OPEN), "arguments")
                found += [call] if call is not None else [self._space + body + close]
                self._space, self._held, self._is_inside = "", rest, False
                self._is_after_call = call is not None
                continue
            before, mark, _ = self._held.partition(_OPEN)
            if not mark:
                before = self._held[: len(self._held) - _overlap(self._held)]
            found += self._text(before)
            self._held = self._held[len(before) :]
            self._is_inside = bool(mark)
            if not mark:
                return found

    def _text(self, text: str) -> list[str | ToolCall]:
        """Return text without the white space at its end, which is dropped before a call."""
        whole = self._space + text
        shown = whole.rstrip()
        self._space = whole[len(shown) :]
        self._is_after_call = self._is_after_call and not shown
        return [shown] if shown else []


def _overlap(text: str) -> int:
    """Return the length of the longest end of a text that begins a call."""
    sizes = range(min(len(_OPEN) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(_OPEN[:size])), 0)


def _call(text: str, key: str) -> ToolCall | None:
    """Return the call that a text is, None if it is none."""
    try:
        value: Any = parse_json(text.strip())
    except DocumentError:
        return None
    if not isinstance(value, Mapping) or value.keys() != {"name", key}:
        return None
    if not isinstance(value["name"], str) or not isinstance(value[key], Mapping):
        return None
    return ToolCall(value["name"], json.dumps(value[key], ensure_ascii=False))
