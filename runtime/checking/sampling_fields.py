"""The fields of a request beside its prompt, checked by the same code in clients and servers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypedDict

from parallel.decoding.types import ConstraintSpec, DecodeMode, SamplingParams
from runtime.checking.constraint_fields import Schema, constraint_of
from runtime.checking.prompt_value import MAX_TOKEN_ID, token_ids
from runtime.checking.values import describe, flag, number, text, texts, whole_number
from runtime.errors import InvalidValue

MAX_STOPS = 16
MAX_SAMPLES = 16
MAX_LOGPROBS = 20
MAX_PRIORITY = 100
MAX_STOP_IDS = 64
MAX_BIASES = 1024
MAX_NAME = 128
_MAX_COUNT = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """The fields of a request beside its prompt; None leaves a value to the server."""

    max_tokens: int | None = None
    """Longest answer."""
    temperature: float | None = None
    """0 or None decodes greedily."""
    top_k: int | None = None
    """Sample among the k most probable tokens; 0 or None among all."""
    top_p: float | None = None
    """Sample among the most probable tokens that together have this probability."""
    min_p: float | None = None
    """Drop tokens with less than this share of the highest probability."""
    repetition_penalty: float | None = None
    """1 or None applies no penalty."""
    presence_penalty: float | None = None
    """Subtracted from the scores of tokens that the answer has; between -2 and 2."""
    frequency_penalty: float | None = None
    """The same for each time that the answer has the token."""
    logit_bias: Mapping[int, float] | None = None
    """Added to the scores of tokens, by token id; between -100 and 100."""
    seed: int | None = None
    """The same seed gives the same tokens; None lets the server draw one."""
    stop: str | Sequence[str] | None = ()
    """Strings that end the answer; the text stops before them."""
    stop_token_ids: Sequence[int] | None = ()
    """Tokens that end the answer, in addition to the model's end tokens."""
    min_tokens: int | None = None
    """No end token is drawn before the answer has so many tokens; strings of `stop` end it
    nevertheless."""
    ignore_eos: bool = False
    """Continue after an end token."""
    mode: str | None = None
    """autoregressive, speculative, pearl or auto."""
    n: int | None = None
    """Number of samples; their chunks arrive interleaved."""
    logprobs: int | None = None
    """Most probable tokens to report at each position; 0 reports only the output token."""
    priority: int = 0
    """Requests of higher priority are served first."""
    model: str | None = None
    """Name of an adapter that the server has; None, or the model's own, is the model alone."""
    json_schema: Schema | None = None
    """A JSON schema, as JSON or as its value: the answer conforms to it."""
    json_object: bool = False
    """The answer is a JSON object."""
    regex: str | None = None
    """A regular expression in Rust's syntax, which the whole answer matches."""
    grammar: str | None = None
    """A grammar in Lark's syntax, whose rule start derives the answer."""
    choice: Sequence[str] | None = None
    """Texts, one of which is the answer."""
    monitor: str | None = None
    """module:function of a monitor that the server has: it names the words that may follow."""
    align: bool = False
    """Answers under a constraint follow the model's own distribution given that they are legal."""
    close: bool = False
    """An answer under a constraint is completed within `max_tokens`."""

    @property
    def constraint(self) -> ConstraintSpec | None:
        """What the answer must satisfy; raises InvalidValue if that cannot be used."""
        return constraint_of(
            json_schema=self.json_schema,
            json_object=self.json_object,
            regex=self.regex,
            grammar=self.grammar,
            choice=self.choice,
            monitor=self.monitor,
            align=self.align,
            close=self.close,
        )

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return 1 if self.n is None else self.n

    def checked(self) -> "Sampling":
        """Return the same fields, checked and converted to Python's own types.

        Raises:
            InvalidValue: a value has the wrong type or is out of range; names the field.
        """
        checked = replace(
            self,
            max_tokens=_count(self.max_tokens, "`max_tokens`", 1, _MAX_COUNT),
            temperature=_real(self.temperature, "`temperature`"),
            top_k=_count(self.top_k, "`top_k`", 0, _MAX_COUNT),
            top_p=_real(self.top_p, "`top_p`"),
            min_p=_real(self.min_p, "`min_p`"),
            repetition_penalty=_real(self.repetition_penalty, "`repetition_penalty`"),
            presence_penalty=_real(self.presence_penalty, "`presence_penalty`"),
            frequency_penalty=_real(self.frequency_penalty, "`frequency_penalty`"),
            logit_bias=_biases(self.logit_bias),
            seed=_count(self.seed, "`seed`", 0, 2**64 - 1),
            stop=_stops(self.stop),
            stop_token_ids=_stop_ids(self.stop_token_ids),
            min_tokens=_count(self.min_tokens, "`min_tokens`", 0, _MAX_COUNT),
            ignore_eos=flag(self.ignore_eos, "`ignore_eos`"),
            json_object=flag(self.json_object, "`json_object`"),
            align=flag(self.align, "`align`"),
            close=flag(self.close, "`close`"),
            mode=_mode(self.mode),
            n=_count(self.n, "`n`", 1, MAX_SAMPLES),
            logprobs=_count(self.logprobs, "`logprobs`", 0, MAX_LOGPROBS),
            priority=whole_number(
                self.priority, "`priority`", minimum=-MAX_PRIORITY, maximum=MAX_PRIORITY
            ),
            model=None if self.model is None else text(self.model, "`model`"),
        )
        if checked.params(seed=0).constraint is not None and checked.ignore_eos:
            raise InvalidValue(
                "`ignore_eos` continues after the end of an answer, which a constraint sets: leave "
                "out one of them"
            )
        if checked.num_samples > 1 and not checked.temperature:
            raise InvalidValue(f"`n` is {checked.n} at temperature 0, where all samples are equal")
        least, most = checked.min_tokens, checked.max_tokens
        if least is not None and most is not None and least > most:
            raise InvalidValue(f"`min_tokens` is {least}, above `max_tokens` {most}")
        return checked

    def params(self, *, seed: int) -> SamplingParams:
        """Return what turns logits into a distribution; `seed` is for requests without a seed.

        Raises:
            InvalidValue: a value is out of range; names the field.
        """
        names = {field.name for field in fields(SamplingParams)}
        given = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name in names
        }
        known = {name: value for name, value in given.items() if value is not None}
        if self.logit_bias is not None:
            known["logit_bias"] = tuple(sorted(self.logit_bias.items()))
        known["constraint"] = self.constraint
        try:
            return SamplingParams(**{"seed": seed} | known)
        except ValueError as error:
            raise InvalidValue(str(error)) from error


class SamplingFields(TypedDict, total=False):
    """The fields of `Sampling` as keyword arguments, for type checkers."""

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    min_tokens: int | None
    ignore_eos: bool
    mode: str | None
    n: int | None
    logprobs: int | None
    priority: int
    model: str | None
    json_schema: Schema | None
    json_object: bool
    regex: str | None
    grammar: str | None
    choice: Sequence[str] | None
    monitor: str | None
    align: bool
    close: bool


def checked_name(request_id: object) -> str:
    """Return the name of a request; "" means that it has none.

    Raises:
        InvalidValue: it is not a short string on one line.
    """
    name = text(request_id, "`request_id`")
    if len(name) > MAX_NAME:
        raise InvalidValue(f"`request_id` has {len(name)} characters: {MAX_NAME} at most")
    if not name.isprintable():
        raise InvalidValue(f"`request_id` is {describe(name)}: it must be printable, on one line")
    return name


def _count(value: int | None, field: str, minimum: int, maximum: int) -> int | None:
    return None if value is None else whole_number(value, field, minimum=minimum, maximum=maximum)


def _real(value: float | None, field: str) -> float | None:
    return None if value is None else number(value, field)


def _stops(value: str | Sequence[str] | None) -> tuple[str, ...]:
    stops = () if value is None else texts(value, "`stop`")
    if len(stops) > MAX_STOPS:
        raise InvalidValue(f"`stop` has {len(stops)} strings: {MAX_STOPS} at most")
    if "" in stops:
        raise InvalidValue(f"`stop`[{stops.index('')}] is empty: every text would end at once")
    return stops


def _stop_ids(value: Sequence[int] | None) -> tuple[int, ...]:
    ids = token_ids(() if value is None else value, "`stop_token_ids`", may_be_empty=True)
    if len(ids) > MAX_STOP_IDS:
        raise InvalidValue(f"`stop_token_ids` has {len(ids)} tokens: {MAX_STOP_IDS} at most")
    return ids


def _biases(value: Mapping[int, float] | None) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidValue(f"`logit_bias` is {describe(value)}: write token ids with numbers")
    if len(value) > MAX_BIASES:
        raise InvalidValue(f"`logit_bias` has {len(value)} tokens: {MAX_BIASES} at most")
    found: dict[int, float] = {}
    for key, bias in value.items():
        token = whole_number(key, "a token of `logit_bias`", minimum=0, maximum=MAX_TOKEN_ID)
        found[token] = number(bias, f"`logit_bias`[{token}]", minimum=-100, maximum=100)
    return found


def _mode(value: str | None) -> str | None:
    if value is None:
        return None
    mode = text(value, "`mode`")
    if mode not in list(DecodeMode):
        raise InvalidValue(f"`mode` is {mode!r}: choose one of {', '.join(DecodeMode)}")
    return mode
