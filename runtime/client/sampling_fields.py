"""What a request asks for beside its prompt; clients and servers check it by one function."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from parallel.decoding.types import DecodeMode, SamplingParams
from runtime.checking.values import describe, flag, number, text, texts, whole_number
from runtime.errors import InvalidValue

MAX_STOPS = 16
MAX_SAMPLES = 16
MAX_LOGPROBS = 20
MAX_PRIORITY = 100
MAX_NAME = 128
_MAX_COUNT = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Fields of a request; None leaves a value to the server."""

    max_tokens: int | None = None
    """Longest answer."""
    temperature: float | None = None
    """0 or None is greedy."""
    top_k: int | None = None
    """Keep the k best tokens."""
    top_p: float | None = None
    """Keep the best tokens of this mass."""
    min_p: float | None = None
    """Drop tokens below this share of the best."""
    repetition_penalty: float | None = None
    """1 or None is off."""
    seed: int | None = None
    """Same seed, same tokens; None lets the server draw one."""
    stop: str | Sequence[str] | None = ()
    """Strings that end the answer; a string is one of them."""
    ignore_eos: bool = False
    """Continue after the end token."""
    mode: str | None = None
    """autoregressive, speculative, pearl or auto."""
    n: int | None = None
    """Samples of the prompt; their chunks come interleaved."""
    logprobs: int | None = None
    """Likeliest tokens to report at each position; 0 reports the output tokens' alone."""
    priority: int = 0
    """Higher is served first."""

    @property
    def num_samples(self) -> int:
        """How many samples the request has."""
        return 1 if self.n is None else self.n

    def checked(self) -> "Sampling":
        """Return the same request with every value checked and of Python's own type.

        Raises:
            InvalidValue: a value has the wrong type or is out of range; names the field.
        """
        checked = replace(
            self,
            max_tokens=_count(self.max_tokens, "max_tokens", 1, _MAX_COUNT),
            temperature=_real(self.temperature, "temperature"),
            top_k=_count(self.top_k, "top_k", 0, _MAX_COUNT),
            top_p=_real(self.top_p, "top_p"),
            min_p=_real(self.min_p, "min_p"),
            repetition_penalty=_real(self.repetition_penalty, "repetition_penalty"),
            seed=_count(self.seed, "seed", 0, 2**64 - 1),
            stop=_stops(self.stop),
            ignore_eos=flag(self.ignore_eos, "ignore_eos"),
            mode=_mode(self.mode),
            n=_count(self.n, "n", 1, MAX_SAMPLES),
            logprobs=_count(self.logprobs, "logprobs", 0, MAX_LOGPROBS),
            priority=whole_number(
                self.priority, "priority", least=-MAX_PRIORITY, most=MAX_PRIORITY
            ),
        )
        checked.params(seed=0)
        if checked.num_samples > 1 and not checked.temperature:
            raise InvalidValue(f"n is {checked.n} at temperature 0: all samples would be the same")
        return checked

    def params(self, *, seed: int) -> SamplingParams:
        """Return what turns logits into a distribution, with `seed` where the request has none.

        Raises:
            InvalidValue: a value is out of range; names the field.
        """
        names = {field.name for field in fields(SamplingParams)}
        given = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name in names
        }
        known = {name: value for name, value in given.items() if value is not None}
        try:
            return SamplingParams(**{"seed": seed} | known)
        except ValueError as error:
            raise InvalidValue(str(error)) from error


def checked_name(request_id: object) -> str:
    """Return the name of a request; "" is none.

    Raises:
        InvalidValue: it is not a short string on one line.
    """
    name = text(request_id, "request_id")
    if len(name) > MAX_NAME:
        raise InvalidValue(f"request_id has {len(name)} characters: {MAX_NAME} at most")
    if not name.isprintable():
        raise InvalidValue(f"request_id is {describe(name)}: it must be printable, on one line")
    return name


def _count(value: int | None, field: str, least: int, most: int) -> int | None:
    return None if value is None else whole_number(value, field, least=least, most=most)


def _real(value: float | None, field: str) -> float | None:
    return None if value is None else number(value, field)


def _stops(value: str | Sequence[str] | None) -> tuple[str, ...]:
    stops = () if value is None else texts(value, "stop")
    if len(stops) > MAX_STOPS:
        raise InvalidValue(f"stop has {len(stops)} strings: {MAX_STOPS} at most")
    if "" in stops:
        raise InvalidValue(f"stop[{stops.index('')}] is empty: every text would end at once")
    return stops


def _mode(value: str | None) -> str | None:
    if value is None:
        return None
    mode = text(value, "mode")
    if mode not in list(DecodeMode):
        raise InvalidValue(f"mode is {mode!r}: choose one of {', '.join(DecodeMode)}")
    return mode
