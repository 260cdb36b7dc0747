"""The gRPC servicers: requests in, events out, errors as statuses."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import grpc
from google.protobuf.message import Message as ProtoMessage

from parallel.decoding.types import DecodeMode, SamplingParams, VerifierKind
from parallel.messages import Submit
from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.errors import ConfigError, PacelineError
from runtime.links.to_wire import put_stats
from runtime.links.wire_values import MODE_NAMES, REASONS
from runtime.service.gateway import Entry, Gateway, GatewayBusy, GatewayDown, RequestRefused
from runtime.service.text_stream import TextStream
from runtime.text import Tokenizer

_RETRY_AFTER_S = 1
_MAX_STOPS = 16
_MAX_NAME = 128
Context: TypeAlias = "grpc.aio.ServicerContext[ProtoMessage, ProtoMessage]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What a server serves."""

    name: str
    tokenizer: Tokenizer
    vocab_size: int
    max_positions: int
    tp: int
    drafter: str
    default_mode: DecodeMode
    default_max_tokens: int
    version: str


class GenerationServicer(rpc.GenerationServiceServicer):
    """Generation for clients anywhere."""

    def __init__(self, gateway: Gateway, model: ServedModel) -> None:
        self._gateway = gateway
        self._model = model

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Stream one request's tokens."""
        client = client_of(context)
        try:
            entry = self._admit(request, client)
            if request.resume_from > entry.submit.max_tokens:
                raise RequestRefused(
                    f"resume_from is {request.resume_from}, beyond max_tokens "
                    f"{entry.submit.max_tokens}"
                )
            text = TextStream(self._model.tokenizer, entry.submit.stop)
            yield pb.GenerateResponse(
                accepted=pb.Accepted(
                    request_id=entry.name,
                    prompt_tokens=len(entry.submit.prompt_ids),
                    seed=entry.submit.sampling.seed,
                )
            )
            events = self._events(entry, text, request.resume_from)
            async with aclosing(events):  # a reader that leaves is noticed at once
                async for event in events:
                    yield event
        except asyncio.CancelledError:
            left_s = context.time_remaining()
            if left_s is not None and left_s <= 0:  # a deadline is the client's last word
                named = self._gateway.find(client, request.request_id)
                if named is not None:
                    self._gateway.cancel(named)
            raise
        except PacelineError as error:
            await refuse(context, error)

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:
        """End a request early."""
        entry = self._gateway.find(client_of(context), request.request_id)
        if entry is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"no request is named {request.request_id!r}"
            )
        return pb.CancelResponse(was_running=self._gateway.cancel(entry))

    def _admit(self, request: pb.GenerateRequest, client: str) -> Entry:
        known = self._gateway.find(client, request.request_id) if request.request_id else None
        seed = request.seed if request.HasField("seed") else secrets.randbits(63)
        if known is not None and not request.HasField("seed"):
            seed = known.submit.sampling.seed
        submit = to_submit(request, self._model, seed)
        return self._gateway.submit(submit, client=client, name=request.request_id)

    async def _events(
        self, entry: Entry, text: TextStream, start: int
    ) -> AsyncGenerator[pb.GenerateResponse]:
        skip = start
        async with aclosing(self._gateway.follow(entry, 0)) as followed:
            async for tokens in followed:
                known, fresh = tokens[:skip], tokens[skip:]
                skip -= len(known)
                text.push(known)
                if fresh:
                    piece = text.push(fresh)
                    yield pb.GenerateResponse(tokens=pb.Tokens(token_ids=fresh, text=piece))
        finished = entry.finished
        assert finished is not None
        yield pb.GenerateResponse(
            finish=pb.Finish(
                reason=REASONS[finished.reason],
                text=text.finish(),
                prompt_tokens=len(entry.submit.prompt_ids),
                completion_tokens=len(entry.token_ids),
                stats=put_stats(finished.stats),
            )
        )


class ModelServicer(rpc.ModelServiceServicer):
    """Tells of the model and its tokens."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model

    async def GetModel(
        self,
        request: pb.GetModelRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> pb.GetModelResponse:
        """Describe what is served."""
        model = self._model
        return pb.GetModelResponse(
            name=model.name,
            vocab_size=model.vocab_size,
            max_positions=model.max_positions,
            tp=model.tp,
            drafter=model.drafter,
            version=model.version,
        )

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Turn text or a conversation into tokens."""
        try:
            return pb.TokenizeResponse(ids=_prompt_ids(request, self._model.tokenizer))
        except PacelineError as error:
            await refuse(context, error)

    async def Detokenize(
        self, request: pb.DetokenizeRequest, context: Context
    ) -> pb.DetokenizeResponse:
        """Turn tokens into text."""
        size = self._model.vocab_size
        unknown = [token for token in request.ids if token >= size]
        if unknown:
            await refuse(context, RequestRefused(f"token {unknown[0]} is not below {size}"))
        return pb.DetokenizeResponse(text=self._model.tokenizer.decode(request.ids))


def to_submit(request: pb.GenerateRequest, model: ServedModel, seed: int) -> Submit:
    """Read a request.

    Raises:
        RequestRefused: a value is out of range; names it.
        ConfigError: the conversation does not fit the chat template.
    """
    prompt_ids = _prompt_ids(request, model.tokenizer)
    max_tokens = request.max_tokens if request.HasField("max_tokens") else model.default_max_tokens
    for holds, problem in (
        (len(prompt_ids) > 0, "the prompt has no tokens: write at least one word"),
        (
            len(prompt_ids) < model.max_positions,
            f"the prompt has {len(prompt_ids)} tokens, the context of {model.name} holds "
            f"{model.max_positions}: shorten the prompt",
        ),
        (all(token < model.vocab_size for token in prompt_ids), "a token is not in the vocabulary"),
        (max_tokens >= 1, f"max_tokens is {max_tokens}: ask for at least 1"),
        (
            len(request.stop) <= _MAX_STOPS,
            f"{len(request.stop)} stop strings, {_MAX_STOPS} at most",
        ),
        (all(request.stop), "a stop string is empty"),
        (len(request.request_id) <= _MAX_NAME, f"request_id is longer than {_MAX_NAME}"),
        (not request.resume_from or request.request_id, "resume_from needs the request_id"),
        (request.mode == 0 or request.mode in MODE_NAMES, f"mode is {request.mode}: not known"),
    ):
        if not holds:
            raise RequestRefused(problem)
    try:
        sampling = SamplingParams(
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p if request.HasField("top_p") else 1.0,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty
            if request.HasField("repetition_penalty")
            else 1.0,
            seed=seed,
        )
    except ValueError as error:
        raise RequestRefused(str(error)) from error
    return Submit(
        request=0,
        prompt_ids=prompt_ids,
        sampling=sampling,
        mode=MODE_NAMES[request.mode] if request.mode else model.default_mode,
        verifier=VerifierKind.MATCH,
        max_tokens=min(max_tokens, model.max_positions - len(prompt_ids)),
        draft_length=-1,
        ignore_eos=request.ignore_eos,
        stop=tuple(request.stop),
    )


def _prompt_ids(
    request: pb.GenerateRequest | pb.TokenizeRequest, tokenizer: Tokenizer
) -> tuple[int, ...]:
    match request.WhichOneof("prompt"):
        case "text":
            return tuple(tokenizer.encode(request.text))
        case "chat":
            messages = [{"role": m.role, "content": m.content} for m in request.chat.messages]
            return tuple(tokenizer.encode_chat(messages))
        case "token_ids" if isinstance(request, pb.GenerateRequest):
            return tuple(request.token_ids.ids)
        case _:
            raise RequestRefused("there is no prompt: give text, token_ids or chat")


def client_of(context: Context) -> str:
    """Return who asks: the token's holder if there is one, else the host."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return str(value)
    return context.peer().rsplit(":", 1)[0]


async def refuse(context: Context, error: PacelineError) -> NoReturn:
    """End a call with the status that an error has."""
    code = grpc.StatusCode.INTERNAL
    trailing: tuple[tuple[str, str], ...] = ()
    match error:
        case RequestRefused() | ConfigError():
            code = grpc.StatusCode.INVALID_ARGUMENT
        case GatewayBusy():
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            trailing = (("retry-after", str(_RETRY_AFTER_S)),)
        case GatewayDown():
            code = grpc.StatusCode.UNAVAILABLE
            trailing = (("retry-after", str(_RETRY_AFTER_S)),)
    await context.abort(code, str(error), trailing)
