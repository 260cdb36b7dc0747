"""The process that runs a monitor: a user's function of a text, which may be slow or fail.

Its argument is module:function. Its first line of JSON is the trigger or what is wrong; then it
answers each text, a line of JSON, with {"words": [...] or null} or {"error": ...}. What the
function prints goes to stderr. It ends with its stdin.
"""

import importlib
import json
import sys
from collections.abc import Callable
from typing import TextIO

from runtime.files.strict_json import parse_json

DEFAULT_TRIGGER = "."
MAX_WORDS = 20000
_LONGEST = 300


def main() -> None:
    """Answer until stdin ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    try:
        monitor, trigger = _found(sys.argv[1])
    except Exception as error:  # a user's module can fail in any way
        _write(answers, {"error": _described(error)})
        return
    _write(answers, {"trigger": trigger})
    for line in sys.stdin:
        try:
            words = monitor(parse_json(line))
            _write(answers, {"words": None if words is None else checked_words(words)})
        except Exception as error:
            _write(answers, {"error": _described(error)})


def checked_words(given: object) -> list[str]:
    """Return a monitor's words.

    Raises:
        ValueError: they are no words, or too many.
    """
    if isinstance(given, str | bytes) or not hasattr(given, "__iter__"):
        raise ValueError(f"it returned {given!r:.80}: return a collection of words, or None")
    words = list(given)
    if len(words) > MAX_WORDS:
        raise ValueError(f"it returned {len(words)} words: {MAX_WORDS} at most")
    for word in words:
        if not isinstance(word, str) or not word.replace("_", "a").isalnum():
            raise ValueError(
                f"it returned {word!r:.80}: a word has letters, digits and underscores"
            )
    return words


def _found(name: str) -> tuple[Callable[[str], object], str]:
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ValueError(f"{name!r} has another form: write module:function")
    monitor = getattr(importlib.import_module(module), function)
    if not callable(monitor):
        raise ValueError(f"{name} is {monitor!r:.80}, which cannot be called")
    trigger = getattr(monitor, "trigger", DEFAULT_TRIGGER)
    if not isinstance(trigger, str) or len(trigger) != 1 or not trigger.isascii():
        raise ValueError(f"{name}.trigger is {trigger!r:.80}: give one ASCII character")
    if trigger.isalnum() or trigger == "_":
        raise ValueError(f"{name}.trigger is {trigger!r}: a part of words cannot begin one")
    return monitor, trigger


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_LONGEST]


def _write(answers: TextIO, answer: object) -> None:
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
