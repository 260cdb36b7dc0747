"""Read the requests that arrive: from the wire to a `Submit`, trusting no client's checks."""

from google.protobuf.message import Message as ProtoMessage
from google.protobuf.unknown_fields import UnknownFieldSet

from parallel.decoding.types import DecodeMode, VerifierKind
from parallel.messages import Submit
from protos.paceline.v1 import service_pb2 as pb
from runtime.checking.chat_messages import messages
from runtime.checking.prompt_value import token_ids
from runtime.checking.sampling_fields import Sampling, checked_name
from runtime.errors import InvalidValue
from runtime.links.wire_values import MODE_NAMES
from runtime.service.served_model import ServedModel

_FIELDS = (
    *("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"),
    *("n", "logprobs"),
)


def to_submit(request: pb.GenerateRequest, model: ServedModel, seed: int) -> Submit:
    """Read a request.

    Args:
        request: as it arrived.
        model: what is served.
        seed: of a request that has none.

    Raises:
        InvalidValue: a value cannot be used; names the field.
        ConfigError: the conversation does not fit the chat template, or an output cannot contain
            a stop string.
    """
    refuse_unknown(request)
    checked_name(request.request_id)
    if (request.resume_from or request.resume_from_each) and not request.request_id:
        raise InvalidValue("`resume_from` needs `request_id`")
    asked = sampling_of(request)
    model.tokenizer.check_stops(asked.stop or ())
    max_tokens = model.default_max_tokens if asked.max_tokens is None else asked.max_tokens
    ids = prompt_ids(request, model)
    if not ids or (request.HasField("text") and not request.text):
        raise InvalidValue("the prompt has no tokens: write at least one word")
    if len(ids) >= model.max_positions:
        raise InvalidValue(
            f"the prompt has {len(ids)} tokens, the context of {model.name} holds "
            f"{model.max_positions}: shorten the prompt"
        )
    return Submit(
        request=0,
        prompt_ids=ids,
        sampling=asked.params(seed=seed),
        mode=model.default_mode if asked.mode is None else DecodeMode(asked.mode),
        verifier=VerifierKind.MATCH,
        max_tokens=min(max_tokens, model.max_positions - len(ids)),
        ignore_eos=asked.ignore_eos,
        stop=tuple(asked.stop or ()),
        num_logprobs=asked.logprobs,
        priority=asked.priority,
    )


def sampling_of(request: pb.GenerateRequest) -> Sampling:
    """Return what a request asks for beside its prompt.

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


def resume_places(request: pb.GenerateRequest, max_tokens: int) -> list[int]:
    """Return how many tokens the client has of each sample.

    Raises:
        InvalidValue: not one for each sample, or more than there can be.
    """
    size, each = num_samples(request), list(request.resume_from_each)
    if size > 1 and request.resume_from:
        raise InvalidValue("with `n` above 1, set `resume_from_each` in place of `resume_from`")
    places = each or [request.resume_from] * size
    if len(places) != size:
        raise InvalidValue(f"`resume_from_each` has {len(places)} numbers for {size} samples")
    if max(places) > max_tokens:
        raise InvalidValue(f"`resume_from` is {max(places)}, beyond `max_tokens` {max_tokens}")
    return places


def num_samples(request: pb.GenerateRequest) -> int:
    """Return how many samples a request asks for."""
    return request.n if request.HasField("n") else 1


def prompt_ids(
    request: pb.GenerateRequest | pb.TokenizeRequest, model: ServedModel
) -> tuple[int, ...]:
    """Return the tokens of a request's prompt, which may be none.

    Raises:
        InvalidValue: no prompt is given, it is too long for the context, or the model has no
            embedding for one of its tokens.
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


def refuse_unknown(request: ProtoMessage) -> None:
    """Raise if a request holds fields that this server does not know: they would be ignored.

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
                refuse_unknown(part)
