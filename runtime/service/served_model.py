"""What a server serves."""

from dataclasses import dataclass, field

from parallel.decoding.types import DecodeMode
from runtime.models.tokenizer import Tokenizer
from runtime.service.prompt_limits import PromptLimits


@dataclass(slots=True, kw_only=True)
class ServedModel:
    """The model behind a server, and what requests that say nothing of it get."""

    name: str
    tokenizer: Tokenizer
    vocab_size: int
    max_positions: int
    tp: int
    drafter: str
    """Changes with the drafter; "" is none."""
    default_mode: DecodeMode
    default_max_tokens: int
    version: str
    limits: PromptLimits = field(init=False)

    def __post_init__(self) -> None:
        """Derive the longest prompt from the context."""
        self.limits = PromptLimits.of(self.tokenizer, self.max_positions)
