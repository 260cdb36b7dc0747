"""The names of what `paceline bench engines` compares."""

from dataclasses import dataclass
from enum import Enum

from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.types import DecodeMode
from runtime.baselines.baseline_run import TRANSFORMERS_LOOKUP
from runtime.errors import ConfigError

_LLAMA_LOOKUP = 10
"""The number of tokens that the binding's prompt lookup drafts by default."""
_FORMS = (
    f"name a mode ({', '.join(DecodeMode)}), MODE:DRAFTER, llama.cpp, llama.cpp:lookup=N, "
    "transformers or transformers:lookup=N"
)


class EngineKind(Enum):
    """Which program generates."""

    PACELINE = "paceline"
    LLAMA_CPP = "llama.cpp"
    TRANSFORMERS = "transformers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One of the engines that are compared, and how it decodes."""

    name: str
    """As it was written."""
    kind: EngineKind
    mode: DecodeMode = DecodeMode.AUTOREGRESSIVE
    """Paceline's mode."""
    drafter: str | None = None
    """Paceline's drafter; None is the one that is found for the target."""
    num_lookup: int | None = None
    """Tokens that another engine's prompt lookup drafts; None is plain decoding."""


def parse_contenders(names: tuple[str, ...]) -> tuple[Contender, ...]:
    """Return the contenders with these names, in their order.

    Raises:
        ConfigError: a name has none of the forms or is there twice, or none is Paceline's.
    """
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ConfigError(f"`contenders` names {min(twice)} twice: name each once")
    found = tuple(map(_contender, names))
    if all(contender.kind is not EngineKind.PACELINE for contender in found):
        raise ConfigError(
            "`contenders` names no mode of Paceline, whose tokens the others are compared with: "
            "add autoregressive"
        )
    return found


def _contender(name: str) -> Contender:
    engine, colon, rest = name.partition(":")
    if colon and not rest:
        raise ConfigError(f"`contenders` has {name!r}: {_FORMS}")
    match engine:
        case "llama.cpp":
            lookup = _num_lookup(name, rest, _LLAMA_LOOKUP)
            return Contender(name=name, kind=EngineKind.LLAMA_CPP, num_lookup=lookup)
        case "transformers":
            lookup = _num_lookup(name, rest, TRANSFORMERS_LOOKUP)
            return Contender(name=name, kind=EngineKind.TRANSFORMERS, num_lookup=lookup)
    if engine not in list(DecodeMode):
        raise ConfigError(f"`contenders` has {name!r}: {_FORMS}")
    mode = DecodeMode(engine)
    if rest and not policy_of(mode).drafts:
        raise ConfigError(f"`contenders` has {name!r}: {engine} decodes without a drafter")
    return Contender(name=name, kind=EngineKind.PACELINE, mode=mode, drafter=rest or None)


def _num_lookup(name: str, text: str, default: int) -> int | None:
    """Return the number of tokens in a text like lookup=10."""
    if not text:
        return None
    word, equals, number = text.partition("=")
    if word != "lookup" or (equals and not (number.isdecimal() and int(number))):
        raise ConfigError(f"`contenders` has {name!r}: {_FORMS}")
    return int(number) if equals else default
