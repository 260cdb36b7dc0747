"""The model that a server serves."""

from dataclasses import dataclass, field

from parallel.decoding.types import DecodeMode, VerifierKind
from runtime.models.tokenizer import Tokenizer
from runtime.requests.prompt_limits import PromptLimits


@dataclass(slots=True, kw_only=True)
class ServedModel:
    """The model behind a server, and the defaults of requests."""

    name: str
    tokenizer: Tokenizer
    vocab_size: int
    max_positions: int
    tp: int
    drafter: str
    """Name of the drafter, which may change while the server runs; "" without one."""
    default_mode: DecodeMode
    default_max_tokens: int
    verifier: VerifierKind = VerifierKind.MATCH
    """Of all requests; `match` gives the same output on every engine that continues a request."""
    version: str
    limits: PromptLimits = field(init=False)

    def __post_init__(self) -> None:
        """Compute the longest prompt from the context."""
        self.limits = PromptLimits.of(self.tokenizer, self.max_positions)
