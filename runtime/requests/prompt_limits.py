"""Size limits of prompts, which reject hopeless ones before they are tokenized."""

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import InvalidValue
from runtime.models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLimits:
    """Sizes above which no prompt fits the context.

    Each check raises InvalidValue with the name of the field, its size and the limit.
    """

    context: int
    """Tokens in the model's context."""
    characters: int
    """Characters of that many longest tokens, each with a space before it."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, context: int) -> "PromptLimits":
        """Return the limits of a model."""
        longest = max(map(len, tokenizer.vocabulary))
        return cls(context=context, characters=context * (longest + 1))

    def check_text(self, field: str, text: str) -> None:
        """Raise if a text has more characters than the context can spell."""
        self._check(field, len(text), self.characters, "characters")

    def check_chat(self, field: str, contents: Sequence[object]) -> None:
        """Raise if the contents of a conversation are too many or too long."""
        self._check(field, len(contents), self.context, "messages")
        size = sum(len(content) for content in contents if isinstance(content, str))
        self._check(field, size, self.characters, "characters")

    def check_ids(self, field: str, size: int) -> None:
        """Raise if there are more token ids than the context holds."""
        self._check(field, size, self.context, "tokens")

    def _check(self, field: str, size: int, limit: int, unit: str) -> None:
        if size > limit:
            raise InvalidValue(
                f"{field} has {size} {unit}, and at most {limit} can fit the context of "
                f"{self.context} tokens: shorten it"
            )
