"""Monitors for tests: functions of a text that name words, fail, hang or end their process."""

import os
import time
from collections.abc import Collection


def members(text: str) -> Collection[str] | None:
    """Know two names after `box.`, and nothing elsewhere."""
    print("asked about", text)  # must not be taken for an answer
    return ("open", "empty") if text.endswith("box.") else None


def arrows(text: str) -> list[str]:
    return [f"n{len(text)}"]


arrows.trigger = ">"  # type: ignore[attr-defined]  # what asks for it


def broken(text: str) -> list[str]:
    raise ValueError(f"nothing is known of {text}")


def hangs(text: str) -> list[str]:
    if text.startswith("slow"):
        time.sleep(600)
    return ["quick"]


def ends(text: str) -> list[str]:
    if text.startswith("end"):
        os._exit(3)
    return ["alive"]


def sentence(text: str) -> object:
    return {"a.": "a text", "b.": ["two words"], "c.": 7}[text]


def odd(text: str) -> None:
    del text


odd.trigger = "->"  # type: ignore[attr-defined]  # two characters
NOT_CALLABLE = 3
