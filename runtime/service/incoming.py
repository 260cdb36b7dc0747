"""Read requests from gRPC messages; nothing a client sends is trusted."""

from typing import Any

from google.protobuf.message import Message as ProtoMessage
from google.protobuf.unknown_fields import UnknownFieldSet

from parallel.decoding.types import ConstraintKind
from protos.paceline.v1 import service_pb2 as pb
from runtime.checking.sampling_fields import Sampling, checked_name
from runtime.errors import InvalidValue
from runtime.links.wire_values import MODE_NAMES
from runtime.requests.generation_request import GenerationRequest
from runtime.requests.prompts import ChatPrompt, Prompt, TextPrompt, TokenPrompt

_FIELDS = (
    *("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"),
    *("n", "logprobs", "presence_penalty", "frequency_penalty", "min_tokens"),
)


def read_request(request: pb.GenerateRequest) -> GenerationRequest:
    """Return a request as every wire reads it.

    Raises:
        InvalidValue: a value cannot be used; names the field.
    """
    reject_unknown_fields(request)
    checked_name(request.request_id)
    if (request.resume_from or request.resume_from_each) and not request.request_id:
        raise InvalidValue("`resume_from` needs `request_id`")
    sampling = sampling_of(request)
    return GenerationRequest(
        prompts=(prompt_of(request),),
        sampling=sampling,
        resume_from=_resume_offsets(request, sampling.num_samples),
    )


def sampling_of(request: pb.GenerateRequest) -> Sampling:
    """Return the fields of a request beside its prompt.

    Raises:
        InvalidValue: a value is out of range; names the field.
    """
    if request.mode and request.mode not in MODE_NAMES:
        raise InvalidValue(f"`mode` is {request.mode}: this server does not know it")
    given = {name: getattr(request, name) for name in _FIELDS if request.HasField(name)}  # type: ignore[arg-type]  # the stubs take literals
    return Sampling(
        stop=tuple(request.stop),
        stop_token_ids=tuple(request.stop_token_ids),
        logit_bias=_biases(request),
        ignore_eos=request.ignore_eos,
        mode=MODE_NAMES[request.mode] if request.mode else None,
        priority=request.priority,
        model=request.model or None,
        **_constraint(request),
        **given,
    ).checked()


def prompt_of(request: pb.GenerateRequest | pb.TokenizeRequest) -> Prompt:
    """Return a request's prompt.

    Raises:
        InvalidValue: there is none.
    """
    match request.WhichOneof("prompt"):
        case "text":
            return TextPrompt(request.text, "text")
        case "chat":
            turns = [{"role": m.role, "content": m.content} for m in request.chat.messages]
            return ChatPrompt(turns, "chat.messages")
        case "token_ids" if isinstance(request, pb.GenerateRequest):
            return TokenPrompt(request.token_ids.ids, "token_ids")
    raise InvalidValue("there is no prompt: give text, token_ids or chat")


def reject_unknown_fields(request: ProtoMessage) -> None:
    """Raise if a request has fields that this server does not know and would ignore.

    Raises:
        InvalidValue: names the message and the field's number.
    """
    unknown = UnknownFieldSet(request)
    if len(unknown):
        raise InvalidValue(
            f"{request.DESCRIPTOR.name} has a field {unknown[0].field_number} that this server "
            "does not know: leave it out, or update the server"
        )
    for field, value in request.ListFields():
        if field.message_type is not None:
            for part in [value] if isinstance(value, ProtoMessage) else value:
                reject_unknown_fields(part)


def _constraint(request: pb.GenerateRequest) -> dict[str, Any]:
    """Return the constraint as a field of `Sampling`."""
    if not request.HasField("constraint"):
        return {}
    wire = request.constraint
    if wire.kind not in list(ConstraintKind):
        known = ", ".join(ConstraintKind)
        raise InvalidValue(f"`constraint.kind` is {wire.kind!r}: choose one of {known}")
    match ConstraintKind(wire.kind):
        case ConstraintKind.JSON_OBJECT:
            value: object = True
        case ConstraintKind.CHOICE:
            if not wire.choices:
                raise InvalidValue("`constraint.choices` is empty: give texts to choose from")
            value = tuple(wire.choices)
        case _:
            value = wire.text
    unused = wire.kind == ConstraintKind.JSON_OBJECT or wire.kind == ConstraintKind.CHOICE
    if (wire.text and unused) or (wire.choices and wire.kind != ConstraintKind.CHOICE):
        field = "text" if wire.text and unused else "choices"
        raise InvalidValue(f"`constraint.{field}` is not read for the kind {wire.kind}: remove it")
    return {wire.kind: value, "align": wire.align, "close": wire.close}


def _biases(request: pb.GenerateRequest) -> dict[int, float] | None:
    found: dict[int, float] = {}
    for one in request.logit_bias:
        if one.token_id in found:
            raise InvalidValue(f"`logit_bias` has the token {one.token_id} twice: remove one")
        found[one.token_id] = one.bias
    return found or None


def _resume_offsets(request: pb.GenerateRequest, num_samples: int) -> tuple[int, ...]:
    """Return how many tokens of each sample the client already has."""
    if num_samples > 1 and request.resume_from:
        raise InvalidValue("with `n` above 1, set `resume_from_each` in place of `resume_from`")
    offsets = tuple(request.resume_from_each) or (request.resume_from,) * num_samples
    if len(offsets) != num_samples:
        raise InvalidValue(
            f"`resume_from_each` has {len(offsets)} numbers for {num_samples} samples"
        )
    return offsets
