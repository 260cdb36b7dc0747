"""Read requests from the wire into `Submit`s; nothing a client sends is trusted."""

from google.protobuf.message import Message as ProtoMessage
from google.protobuf.unknown_fields import UnknownFieldSet

from parallel.decoding.types import DecodeMode
from parallel.messages import Submit
from protos.paceline.v1 import service_pb2 as pb
from runtime.checking.chat_messages import messages
from runtime.checking.prompt_value import check_prompt_length, token_ids
from runtime.checking.sampling_fields import Sampling, checked_name
from runtime.errors import InvalidValue
from runtime.links.wire_values import MODE_NAMES
from runtime.service.served_model import ServedModel

_FIELDS = (
    *("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"),
    *("n", "logprobs"),
)


def to_submit(request: pb.GenerateRequest, model: ServedModel, seed: int) -> Submit:
    """Return a request as the engine reads it.

    Args:
        request: as it arrived.
        model: the served model.
        seed: for a request without a seed.

    Raises:
        InvalidValue: a value cannot be used; names the field.
        ConfigError: the conversation does not fit the chat template, or an output cannot contain
            a stop string.
    """
    reject_unknown_fields(request)
    checked_name(request.request_id)
    if (request.resume_from or request.resume_from_each) and not request.request_id:
        raise InvalidValue("`resume_from` needs `request_id`")
    sampling = sampling_of(request)
    model.tokenizer.check_stops(sampling.stop or ())
    max_tokens = model.default_max_tokens if sampling.max_tokens is None else sampling.max_tokens
    ids = prompt_ids(request, model)
    is_empty = request.HasField("text") and not request.text  # a tokenizer may add a start token
    check_prompt_length(
        0 if is_empty else len(ids),
        prompt="the prompt",
        model=model.name,
        max_positions=model.max_positions,
    )
    return Submit(
        request=0,
        prompt_ids=ids,
        sampling=sampling.params(seed=seed),
        mode=model.default_mode if sampling.mode is None else DecodeMode(sampling.mode),
        verifier=model.verifier,
        max_tokens=min(max_tokens, model.max_positions - len(ids)),
        ignore_eos=sampling.ignore_eos,
        stop=tuple(sampling.stop or ()),
        num_logprobs=sampling.logprobs,
        priority=sampling.priority,
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
        ignore_eos=request.ignore_eos,
        mode=MODE_NAMES[request.mode] if request.mode else None,
        priority=request.priority,
        **given,
    ).checked()


def resume_offsets(request: pb.GenerateRequest, max_tokens: int) -> list[int]:
    """Return how many tokens of each sample the client already has.

    Raises:
        InvalidValue: there is not one number for each sample, or one is above max_tokens.
    """
    size, each = num_samples(request), list(request.resume_from_each)
    if size > 1 and request.resume_from:
        raise InvalidValue("with `n` above 1, set `resume_from_each` in place of `resume_from`")
    offsets = each or [request.resume_from] * size
    if len(offsets) != size:
        raise InvalidValue(f"`resume_from_each` has {len(offsets)} numbers for {size} samples")
    if max(offsets) > max_tokens:
        raise InvalidValue(f"`resume_from` is {max(offsets)}, beyond `max_tokens` {max_tokens}")
    return offsets


def num_samples(request: pb.GenerateRequest) -> int:
    """Return the number of samples of a request."""
    return request.n if request.HasField("n") else 1


def prompt_ids(
    request: pb.GenerateRequest | pb.TokenizeRequest, model: ServedModel
) -> tuple[int, ...]:
    """Return the tokens of a request's prompt; an empty text has none.

    Raises:
        InvalidValue: there is no prompt, it is too long for the context, or a token is not in the
            vocabulary.
        ConfigError: the conversation does not fit the chat template.
    """
    model.limits.check(request)
    tokenizer = model.tokenizer
    match request.WhichOneof("prompt"):
        case "text":
            field, ids = "the prompt", tuple(tokenizer.encode(request.text))
        case "chat":
            given = [{"role": m.role, "content": m.content} for m in request.chat.messages]
            turns = messages(given, "chat.messages", extra_keys=())
            field, ids = "the prompt", tuple(tokenizer.encode_chat(turns))
        case "token_ids" if isinstance(request, pb.GenerateRequest):
            field, ids = "token_ids", tuple(request.token_ids.ids)
        case _:
            raise InvalidValue("there is no prompt: give text, token_ids or chat")
    return token_ids(ids, field, vocab_size=model.vocab_size, may_be_empty=True)


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
