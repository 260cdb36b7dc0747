"""Size limits of prompts, which reject hopeless ones before they are tokenized."""

from dataclasses import dataclass

from protos.paceline.v1 import service_pb2 as pb
from runtime.errors import InvalidValue
from runtime.models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLimits:
    """Sizes above which no prompt fits the context."""

    context: int
    """Tokens in the model's context."""
    characters: int
    """Characters of that many longest tokens, each with a space before it."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, context: int) -> "PromptLimits":
        """Return the limits of a model."""
        longest = max(map(len, tokenizer.vocabulary))
        return cls(context=context, characters=context * (longest + 1))

    def check(self, request: pb.GenerateRequest | pb.TokenizeRequest) -> None:
        """Raise if a request's prompt cannot fit.

        Raises:
            InvalidValue: names the field, its size and the limit.
        """
        match request.WhichOneof("prompt"):
            case "text":
                self._check("text", len(request.text), self.characters, "characters")
            case "chat":
                turns = request.chat.messages
                self._check("chat.messages", len(turns), self.context, "messages")
                size = sum(len(turn.content) for turn in turns)
                self._check("chat.messages", size, self.characters, "characters")
            case "token_ids" if isinstance(request, pb.GenerateRequest):
                self.check_ids("token_ids", len(request.token_ids.ids))

    def check_ids(self, field: str, size: int) -> None:
        """Raise if there are more token ids than the context holds; raises as `check` does."""
        self._check(field, size, self.context, "tokens")

    def _check(self, field: str, size: int, limit: int, unit: str) -> None:
        if size > limit:
            raise InvalidValue(
                f"{field} has {size} {unit}, and at most {limit} can fit the context of "
                f"{self.context} tokens: shorten it"
            )
