"""The gRPC servicers: read requests, stream events, and turn errors into statuses."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import NoReturn

import grpc

from parallel.messages import Submit
from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.checking.prompt_value import token_ids
from runtime.errors import ConfigError, DeadlineExceeded, PacelineError
from runtime.gateway.gateway import Gateway
from runtime.gateway.journal import OpenRequest
from runtime.gateway.limits import GatewayBusy, GatewayDown, RequestRefused
from runtime.links.to_wire import put_logprobs, put_stats
from runtime.links.wire_values import REASONS
from runtime.service.answer_events import TokensEvent, answer_events
from runtime.service.call import Call, Context, current_call
from runtime.service.identity import AcceptedTokens
from runtime.service.incoming import (
    num_samples,
    prompt_ids,
    reject_unknown_fields,
    resume_offsets,
    to_submit,
)
from runtime.service.prompt_reader import PromptReader
from runtime.service.served_model import ServedModel

_RETRY_AFTER_S = 1
_MIN_S = 1e-3  # a deadline is never 0


class GenerationServicer(rpc.GenerationServiceServicer):
    """Generates for clients."""

    def __init__(
        self, gateway: Gateway, model: ServedModel, tokens: AcceptedTokens, reader: PromptReader
    ) -> None:
        self._gateway = gateway
        self._model = model
        self._tokens = tokens
        self._reader = reader
        self._arriving: dict[Call, None] = {}

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Stream the tokens of a request."""
        call = current_call()
        call.begin(context, self._client(context), request.request_id)
        try:
            known, starts = await self._admit(request, call, context)
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
        """Cancel a request, also one that is not accepted yet."""
        client, name = self._client(context), request.request_id
        known = self._gateway.find(client, name)
        if known is not None:
            return pb.CancelResponse(was_running=self._gateway.cancel(known))
        arriving = [call for call in self._arriving if (call.client, call.name) == (client, name)]
        for call in arriving:
            call.is_cancelled = True
        if not arriving or not name:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no request is named {name!r}")
        return pb.CancelResponse(was_running=True)

    def _client(self, context: Context) -> str:
        return self._tokens.name_of(context.invocation_metadata(), context.peer())

    async def _admit(
        self, request: pb.GenerateRequest, call: Call, context: Context
    ) -> tuple[OpenRequest, list[int]]:
        """Queue a request or find it by name; return it with the tokens the client already has."""
        gateway, client, name = self._gateway, call.client, request.request_id
        if gateway.find(client, name) is None:
            gateway.check_capacity(1, client)
        self._arriving[call] = None
        try:
            submit, starts = await self._reader.run(request.ByteSize(), lambda: self._read(request))
        finally:
            del self._arriving[call]
        known = gateway.find(client, name)
        if known is not None and not request.HasField("seed"):
            submit = replace(submit, sampling=replace(submit.sampling, seed=known.seed))
        left_s = context.time_remaining()
        timeout_s = None if left_s is None else max(left_s, _MIN_S)
        submit = replace(submit, client=client, timeout_s=timeout_s)
        submits = [replace(submit, sample_index=index) for index in range(num_samples(request))]
        queued = gateway.submit(submits, client=client, name=name)
        if call.is_cancelled:
            gateway.cancel(queued)
        return queued, starts

    def _read(self, request: pb.GenerateRequest) -> tuple[Submit, list[int]]:
        submit = to_submit(request, self._model, secrets.randbits(63))
        return submit, resume_offsets(request, submit.max_tokens)

    async def _events(
        self, request: OpenRequest, offsets: list[int]
    ) -> AsyncGenerator[pb.GenerateResponse]:
        """Return the wire form of an answer's events, which end with one Finish."""
        has_samples = len(request.samples) > 1
        last: pb.Finish | None = None
        async with aclosing(answer_events(request, self._model.tokenizer, offsets)) as events:
            async for event in events:
                if isinstance(event, TokensEvent):
                    yield pb.GenerateResponse(
                        tokens=pb.Tokens(
                            token_ids=event.token_ids,
                            text=event.text,
                            logprobs=put_logprobs(event.logprobs),
                            sample=event.sample,
                        )
                    )
                    continue
                reason, stats = REASONS[event.reason], put_stats(event.stats)
                if not has_samples:
                    last = pb.Finish(reason=reason, text=event.text, stats=stats)
                    continue
                last = pb.Finish(reason=reason)
                yield pb.GenerateResponse(
                    sample_finish=pb.SampleFinish(
                        sample=event.sample,
                        reason=reason,
                        text=event.text,
                        completion_tokens=event.num_tokens,
                        stats=stats,
                    )
                )
        assert last is not None
        last.prompt_tokens = len(request.samples[0].submit.prompt_ids)
        last.completion_tokens = sum(len(journal.token_ids) for journal in request.samples)
        yield pb.GenerateResponse(finish=last)


class ModelServicer(rpc.ModelServiceServicer):
    """Describes the model and its tokens."""

    def __init__(self, model: ServedModel, reader: PromptReader) -> None:
        self._model = model
        self._reader = reader

    async def GetModel(
        self,
        request: pb.GetModelRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> pb.GetModelResponse:
        """Describe the model."""
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
            return await self._reader.run(request.ByteSize(), lambda: self._tokenized(request))
        except PacelineError as error:
            await refuse(context, error)

    async def Detokenize(
        self, request: pb.DetokenizeRequest, context: Context
    ) -> pb.DetokenizeResponse:
        """Turn tokens into text."""
        try:
            return await self._reader.run(request.ByteSize(), lambda: self._detokenized(request))
        except PacelineError as error:
            await refuse(context, error)

    def _tokenized(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
        reject_unknown_fields(request)
        return pb.TokenizeResponse(ids=prompt_ids(request, self._model))

    def _detokenized(self, request: pb.DetokenizeRequest) -> pb.DetokenizeResponse:
        reject_unknown_fields(request)
        model = self._model
        model.limits.check_ids("ids", len(request.ids))
        ids = token_ids(request.ids, "ids", vocab_size=model.vocab_size, may_be_empty=True)
        return pb.DetokenizeResponse(text=model.tokenizer.decode(ids))


async def refuse(context: Context, error: PacelineError) -> NoReturn:
    """Abort a call with the status of an error."""
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
