"""The fields of a body: each is read, skipped for a stated reason, or rejected by name."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from runtime.checking.values import describe, flag, whole_number
from runtime.errors import InvalidValue

HARMLESS = {
    "user": "names the caller's own user",
    "safety_identifier": "names the caller's own user",
    "metadata": "is kept for the caller by OpenAI",
    "store": "is about what OpenAI keeps",
    "service_tier": "is about OpenAI's prices",
    "prompt_cache_key": "is about OpenAI's cache; prefixes are shared here without it",
    "prompt_cache_retention": "is about OpenAI's cache",
}
"""Fields that change no token, with what they are for."""
FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "suffix": (("",), "text cannot be inserted before a suffix"),
    "echo": ((False,), "the prompt is not returned"),
    "best_of": ((1,), "every sample is returned: use `n`"),
    "modalities": ((["text"],), "answers are text"),
    "audio": ((), "answers are text"),
    "prediction": ((), "drafts come from the server's own drafter"),
    "parallel_tool_calls": ((True,), "the number of calls is not constrained"),
    "functions": (([],), "it is deprecated: use `tools`"),
    "function_call": (("none",), "it is deprecated: use `tool_choice`"),
    "reasoning_effort": ((), "the chat template has no such setting"),
    "verbosity": ((), "the model has no such setting"),
    "web_search_options": ((), "the server does not search"),
    "skip_special_tokens": ((True,), "text never has special tokens: use `return_token_ids`"),
    "spaces_between_special_tokens": ((True,), "text never has special tokens"),
    "include_stop_str_in_output": ((False,), "the text stops before a stop string"),
    "add_generation_prompt": ((True,), "the assistant answers"),
    "continue_final_message": ((False,), "the assistant starts a new message"),
}
"""Fields with the values that mean what the server does anyway, and why no other is accepted."""


class RequestFields:
    """The fields of a body; null counts as absent."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._left = {name: value for name, value in body.items() if value is not None}
        self._taken: list[str] = []

    def take(self, name: str) -> Any:
        """Return a field's value, None if it is absent."""
        self._taken.append(name)
        return self._left.pop(name, None)

    def flag(self, name: str) -> bool:
        """Return a field that is true or false; false if it is absent.

        Raises:
            InvalidValue: it is something else.
        """
        value = self.take(name)
        return False if value is None else flag(value, f"`{name}`")

    def count(self, name: str, *, minimum: int, maximum: int | None = None) -> int | None:
        """Return a whole number, None if it is absent.

        Raises:
            InvalidValue: it is something else, or out of range.
        """
        value = self.take(name)
        if value is None:
            return None
        return whole_number(value, f"`{name}`", minimum=minimum, maximum=maximum)

    def reject_rest(self) -> None:
        """Raise if a field remains that would be ignored and could matter.

        Raises:
            InvalidValue: names the field.
        """
        for name, value in self._left.items():
            if name in HARMLESS:
                continue
            if name not in FIXED:
                raise InvalidValue(f"`{name}` is not a field of this endpoint: {self._hint(name)}")
            accepted, reason = FIXED[name]
            if not any(value == one and type(value) is type(one) for one in accepted):
                shown = describe(value)
                raise InvalidValue(f"`{name}` is {shown}, which is not supported: {reason}")

    def _hint(self, name: str) -> str:
        near = get_close_matches(name, self._taken, n=1)
        return f"did you mean `{near[0]}`?" if near else "remove it"
