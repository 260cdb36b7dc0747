"""The model that a server serves."""

from dataclasses import dataclass, field

from parallel.decoding.types import DecodeMode, VerifierKind
from runtime.errors import InvalidValue
from runtime.models.tokenizer import Tokenizer
from runtime.requests.prompt_limits import PromptLimits
from runtime.requests.served_adapters import ServedAdapters


class UnknownModel(InvalidValue):
    """A request names a model that is not served."""


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
    adapters: ServedAdapters = field(default_factory=ServedAdapters)
    """What requests may name in place of the model."""
    limits: PromptLimits = field(init=False)

    def __post_init__(self) -> None:
        """Compute the longest prompt from the context."""
        self.limits = PromptLimits.of(self.tokenizer, self.max_positions)

    def version_of(self, name: str | None) -> str:
        """Return the version of the adapter that a request names; "" is the model alone.

        Raises:
            UnknownModel: there is neither a model nor an adapter of this name.
        """
        if name is None or name == self.name:
            return ""
        adapter = self.adapters.find(name)
        if adapter is None and (job := self.adapters.awaited(name)) is not None:
            raise UnknownModel(
                f"the model {name!r} is not served yet: {job} has no adapter that can be served"
            )
        if adapter is None:
            adapters = "".join(f", {known.name!r}" for known in self.adapters.served)
            raise UnknownModel(
                f"the model {name!r} is not served here: this server has {self.name!r}{adapters}"
            )
        return adapter.version
