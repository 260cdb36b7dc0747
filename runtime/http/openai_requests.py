"""Read the bodies of /v1/completions and /v1/chat/completions into requests for generation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.checking.call_arguments import with_arguments
from runtime.checking.chat_messages import EXTRA_KEYS
from runtime.checking.sampling_fields import MAX_LOGPROBS, Sampling, checked_name
from runtime.checking.values import describe, flag, items, number, text
from runtime.errors import InvalidValue
from runtime.http.constraint_bodies import read_constraint
from runtime.http.request_fields import RequestFields
from runtime.http.tool_fields import read_tools
from runtime.requests.generation_request import GenerationRequest
from runtime.requests.prompts import ChatPrompt, Prompt, TextPrompt, TokenPrompt

_TEMPERATURE = 1.0
"""OpenAI's default; over gRPC it is 0."""
_SAMPLING = (
    *("top_p", "min_p", "repetition_penalty", "seed", "stop", "mode", "n"),
    *("ignore_eos", "priority", "stop_token_ids", "min_tokens"),
    *("presence_penalty", "frequency_penalty", "model", "align", "close"),
)
MAX_PROMPTS = 128
"""Of one request."""
MIN_TIMEOUT_S, MAX_TIMEOUT_S = 1e-3, 86400.0
_STREAM_OPTIONS = ("include_usage", "continuous_usage_stats", "include_obfuscation")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAiRequest:
    """A request for generation, and the form of its answer."""

    generation: GenerationRequest
    request_id: str
    """Names the request, so that a broken stream can be resumed; "" if it has no name."""
    is_chat: bool
    streams: bool
    has_usage: bool
    """Whether a stream ends with the usage."""
    has_usage_always: bool
    """Whether each chunk of a stream has the usage so far."""
    has_token_ids: bool
    has_token_sources: bool
    has_tools: bool
    """Whether calls of tools are found in the answer."""


def read_completion(body: Mapping[str, Any], last_event_id: str | None = None) -> OpenAiRequest:
    """Return a request of /v1/completions.

    Args:
        body: the JSON object.
        last_event_id: of the stream that the client has lost; None starts a new one.

    Raises:
        InvalidValue: a field is unknown, or its value cannot be used; names the field.
    """
    fields = RequestFields(body)
    prompts = _completion_prompts(fields.take("prompt"))
    most = fields.count("max_tokens", minimum=1)
    logprobs = fields.count("logprobs", minimum=0, maximum=MAX_LOGPROBS)
    sampling = _sampling(fields, max_tokens=most, logprobs=logprobs)
    return _request(fields, prompts, sampling, last_event_id, is_chat=False)


def read_chat(body: Mapping[str, Any], last_event_id: str | None = None) -> OpenAiRequest:
    """Return a request of /v1/chat/completions; as `read_completion`."""
    fields = RequestFields(body)
    messages = fields.take("messages")
    if messages is None:
        raise InvalidValue("`messages` is missing: give a list of messages")
    turns = with_arguments(items(messages, "messages", "messages"))
    prompt = ChatPrompt(turns, "messages", EXTRA_KEYS, read_tools(fields))
    most = fields.count("max_completion_tokens", minimum=1)
    older = fields.count("max_tokens", minimum=1)
    if most is not None and older is not None and most != older:
        raise InvalidValue(
            f"`max_tokens` is {older} and `max_completion_tokens` is {most}: give one of them"
        )
    sampling = _sampling(fields, max_tokens=most or older, logprobs=_chat_logprobs(fields))
    return _request(fields, (prompt,), sampling, last_event_id, is_chat=True)


def _completion_prompts(value: object) -> tuple[Prompt, ...]:
    """Return a prompt, or those in a list."""
    if value is None:
        raise InvalidValue("`prompt` is missing: give a text or token ids")
    if isinstance(value, str):
        return (_prompt(value, "prompt"),)
    given = items(value, "`prompt`", "token ids, a string, or a list of these")
    if not given or not all(isinstance(one, str | list) for one in given):
        return (_prompt(given, "prompt"),)
    if len(given) > MAX_PROMPTS:
        raise InvalidValue(f"`prompt` has {len(given)} prompts: {MAX_PROMPTS} at most")
    if len(given) == 1:
        return (_prompt(given[0], "prompt"),)
    return tuple(_prompt(one, f"prompt[{index}]") for index, one in enumerate(given))


def _prompt(value: object, field: str) -> Prompt:
    if isinstance(value, str):
        return TextPrompt(text(value, f"`{field}`"), field)
    return TokenPrompt(items(value, f"`{field}`", "token ids"), field)


def _chat_logprobs(fields: RequestFields) -> int | None:
    top = fields.count("top_logprobs", minimum=0, maximum=MAX_LOGPROBS)
    if fields.flag("logprobs"):
        return top or 0
    if top:
        raise InvalidValue(f"`top_logprobs` is {top}: it needs `logprobs` true")
    return None


def _sampling(fields: RequestFields, *, max_tokens: int | None, logprobs: int | None) -> Sampling:
    given = {name: fields.take(name) for name in _SAMPLING}
    given |= read_constraint(fields).fields
    temperature, top_k = fields.take("temperature"), fields.take("top_k")
    return Sampling(
        max_tokens=max_tokens,
        logprobs=logprobs,
        temperature=_TEMPERATURE if temperature is None else temperature,
        logit_bias=_logit_bias(fields.take("logit_bias")),
        top_k=0 if top_k == -1 else top_k,  # vLLM's spelling of all tokens
        **{name: value for name, value in given.items() if value is not None},
    ).checked()


def _logit_bias(value: object) -> dict[int, float] | None:
    """Return biases by token id; JSON writes ids as strings."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidValue(f"`logit_bias` is {describe(value)}: write token ids with numbers")
    found: dict[int, float] = {}
    for key, bias in value.items():
        token = str(key).strip()
        if not (token.isascii() and token.isdecimal()) or len(token) > 10:
            raise InvalidValue(f"`logit_bias` has the key {describe(key)}: write a token id")
        if int(token) in found:
            raise InvalidValue(f"`logit_bias` has the token {int(token)} twice: remove one")
        found[int(token)] = bias
    return found


def _request(
    fields: RequestFields,
    prompts: tuple[Prompt, ...],
    sampling: Sampling,
    last_event_id: str | None,
    *,
    is_chat: bool,
) -> OpenAiRequest:
    """Read the fields that both endpoints share; reject what remains."""
    streams = fields.flag("stream")
    options = _stream_options(fields.take("stream_options"), streams=streams)
    name = fields.take("request_id")
    request_id = "" if name is None else checked_name(name)
    timeout_s = fields.take("timeout_s")
    if timeout_s is not None:
        timeout_s = number(timeout_s, "`timeout_s`", minimum=MIN_TIMEOUT_S, maximum=MAX_TIMEOUT_S)
    has_token_ids = fields.flag("return_token_ids")
    has_token_sources = fields.flag("return_token_sources")
    fields.reject_rest()
    has_tools = any(isinstance(one, ChatPrompt) and one.tools for one in prompts)
    if has_tools and sampling.constraint is not None:
        raise InvalidValue("`tools` are given and the answer is constrained: leave out one of them")
    if last_event_id is not None and (not streams or has_tools):
        raise InvalidValue("the header last-event-id needs `stream` true, and no `tools`")
    return OpenAiRequest(
        generation=GenerationRequest(
            prompts=prompts,
            sampling=sampling,
            resume_from=_resume_from(
                last_event_id, request_id, len(prompts) * sampling.num_samples
            ),
            timeout_s=timeout_s,
        ),
        request_id=request_id,
        is_chat=is_chat,
        streams=streams,
        has_usage=options["include_usage"],
        has_usage_always=options["continuous_usage_stats"],
        has_token_ids=has_token_ids,
        has_token_sources=has_token_sources,
        has_tools=has_tools,
    )


def _stream_options(value: object, *, streams: bool) -> dict[str, bool]:
    found = dict.fromkeys(_STREAM_OPTIONS, False)
    if value is None:
        return found
    if not streams:
        raise InvalidValue("`stream_options` needs `stream` true")
    if not isinstance(value, Mapping):
        raise InvalidValue(f"`stream_options` is {describe(value)}: it must be an object")
    for name, held in value.items():
        if name not in _STREAM_OPTIONS:
            known = ", ".join(_STREAM_OPTIONS)
            raise InvalidValue(f"`stream_options.{name}` is not supported; it has {known}")
        found[name] = held is not None and flag(held, f"`stream_options.{name}`")
    return found


def _resume_from(last_event_id: str | None, request_id: str, num_samples: int) -> tuple[int, ...]:
    """Return how many tokens of each sample the client already has."""
    if last_event_id is None:
        return (0,) * num_samples
    if not request_id:
        raise InvalidValue("the header last-event-id needs `request_id`, which names the stream")
    parts = last_event_id.split(",")
    if len(parts) != num_samples or not all(p.isascii() and p.isdecimal() for p in parts):
        raise InvalidValue(
            f"the header last-event-id is {describe(last_event_id)}: send the last `id` of the "
            f"stream, {num_samples} numbers with commas between"
        )
    return tuple(int(part[:10]) for part in parts)
