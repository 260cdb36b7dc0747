"""The gRPC servicers: requests in, events out, errors as statuses."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import NoReturn

import grpc

from parallel.decoding.types import DecodeMode, SamplingParams, VerifierKind
from parallel.messages import Submit
from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.errors import ConfigError, DeadlineExceeded, PacelineError
from runtime.links.to_wire import put_logprobs, put_stats
from runtime.links.wire_values import MODE_NAMES, REASONS
from runtime.service.call import Context, current_call
from runtime.service.gateway import Gateway
from runtime.service.identity import AcceptedTokens
from runtime.service.journal import Request
from runtime.service.limits import GatewayBusy, GatewayDown, RequestRefused
from runtime.service.text_stream import TextStream
from runtime.text import Tokenizer

_RETRY_AFTER_S = 1
_MAX_STOPS = 16
_MAX_NAME = 128
_MOST_SAMPLES = 16
_MOST_LOGPROBS = 20
_MOST_PRIORITY = 100
_LEAST_S = 1e-3  # 0 would be no deadline


@dataclass(slots=True, kw_only=True)
class ServedModel:
    """What a server serves."""

    name: str
    tokenizer: Tokenizer
    vocab_size: int
    max_positions: int
    tp: int
    drafter: str
    """Changes with the drafter; "" is none."""
    default_mode: DecodeMode
    default_max_tokens: int
    version: str


class GenerationServicer(rpc.GenerationServiceServicer):
    """Generation for clients anywhere."""

    def __init__(self, gateway: Gateway, model: ServedModel, tokens: AcceptedTokens) -> None:
        self._gateway = gateway
        self._model = model
        self._tokens = tokens

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Stream one request's tokens."""
        call = current_call()
        call.begin(context, self._client(context), request.request_id)
        try:
            known, starts = self._admit(request, call.client, context)
            call.accept(known)
            yield pb.GenerateResponse(
                accepted=pb.Accepted(
                    request_id=known.name,
                    prompt_tokens=len(known.samples[0].submit.prompt_ids),
                    seed=known.seed,
                )
            )
            events = self._events(known, starts)
            async with aclosing(events):
                async for event in events:
                    yield event
        except PacelineError as error:
            call.refuse(error)
            await refuse(context, error)

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:
        """End a request early."""
        known = self._gateway.find(self._client(context), request.request_id)
        if known is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"no request is named {request.request_id!r}"
            )
        return pb.CancelResponse(was_running=self._gateway.cancel(known))

    def _client(self, context: Context) -> str:
        return self._tokens.name_of(context.invocation_metadata(), context.peer())

    def _admit(
        self, request: pb.GenerateRequest, client: str, context: Context
    ) -> tuple[Request, list[int]]:
        """Queue a request, or find it again; return it with how much the client has of it."""
        known = self._gateway.find(client, request.request_id)
        seed = request.seed if request.HasField("seed") else secrets.randbits(63)
        if known is not None and not request.HasField("seed"):
            seed = known.seed
        left_s = context.time_remaining()
        submit = replace(
            to_submit(request, self._model, seed),
            client=client,
            timeout_s=0.0 if left_s is None else max(left_s, _LEAST_S),
        )
        submits = [replace(submit, sample_index=index) for index in range(num_samples(request))]
        starts = resume_places(request, submit.max_tokens)
        return self._gateway.submit(submits, client=client, name=request.request_id), starts

    async def _events(
        self, request: Request, starts: list[int]
    ) -> AsyncGenerator[pb.GenerateResponse]:
        """Turn a request's journals into events; text is made anew from the first token on."""
        submit = request.samples[0].submit
        texts = [TextStream(self._model.tokenizer, submit.stop) for _ in request.samples]
        skips, several = list(starts), len(request.samples) > 1
        last: pb.Finish | None = None
        async with aclosing(request.follow()) as followed:
            async for piece in followed:
                text = texts[piece.sample]
                if piece.finished is not None:
                    reason, stats = REASONS[piece.finished.reason], put_stats(piece.finished.stats)
                    if several:
                        ended = pb.SampleFinish(
                            sample=piece.sample,
                            reason=reason,
                            text=text.finish(),
                            completion_tokens=len(request.samples[piece.sample].token_ids),
                            stats=stats,
                        )
                        yield pb.GenerateResponse(sample_finish=ended)
                        last = pb.Finish(reason=reason)
                    else:
                        last = pb.Finish(reason=reason, text=text.finish(), stats=stats)
                    continue
                skip = min(skips[piece.sample], len(piece.token_ids))
                skips[piece.sample] -= skip
                text.push(piece.token_ids[:skip])
                fresh = piece.token_ids[skip:]
                if fresh:
                    tokens = pb.Tokens(
                        token_ids=fresh,
                        text=text.push(fresh),
                        logprobs=put_logprobs(piece.logprobs[skip:]),
                        sample=piece.sample,
                    )
                    yield pb.GenerateResponse(tokens=tokens)
        assert last is not None
        last.prompt_tokens = len(submit.prompt_ids)
        last.completion_tokens = sum(len(journal.token_ids) for journal in request.samples)
        yield pb.GenerateResponse(finish=last)


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
        (
            not (request.resume_from or request.resume_from_each) or request.request_id,
            "resume_from needs the request_id",
        ),
        (
            1 <= num_samples(request) <= _MOST_SAMPLES,
            f"n is {num_samples(request)}: ask for 1 to {_MOST_SAMPLES} samples",
        ),
        (
            num_samples(request) == 1 or request.temperature > 0,
            f"n is {num_samples(request)} at temperature 0: all samples would be the same",
        ),
        (
            request.logprobs <= _MOST_LOGPROBS,
            f"logprobs is {request.logprobs}: {_MOST_LOGPROBS} at most",
        ),
        (
            abs(request.priority) <= _MOST_PRIORITY,
            f"priority is {request.priority}: between -{_MOST_PRIORITY} and {_MOST_PRIORITY}",
        ),
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
        num_logprobs=request.logprobs if request.HasField("logprobs") else -1,
        priority=request.priority,
    )


def num_samples(request: pb.GenerateRequest) -> int:
    """Return how many samples a request asks for."""
    return request.n if request.HasField("n") else 1


def resume_places(request: pb.GenerateRequest, max_tokens: int) -> list[int]:
    """Return how many tokens the client has of each sample.

    Raises:
        RequestRefused: not one for each sample, or more than there can be.
    """
    size, each = num_samples(request), list(request.resume_from_each)
    if size > 1 and request.resume_from:
        raise RequestRefused("with n above 1, resume_from_each says where each sample goes on")
    places = each or [request.resume_from] * size
    if len(places) != size:
        raise RequestRefused(f"resume_from_each has {len(places)} numbers for {size} samples")
    if max(places) > max_tokens:
        raise RequestRefused(f"resume_from is {max(places)}, beyond max_tokens {max_tokens}")
    return places


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
        case DeadlineExceeded():
            code = grpc.StatusCode.DEADLINE_EXCEEDED
        case GatewayDown():
            code = grpc.StatusCode.UNAVAILABLE
            trailing = (("retry-after", str(_RETRY_AFTER_S)),)
    await context.abort(code, str(error), trailing)
