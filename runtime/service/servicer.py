"""The gRPC servicers: read requests, stream events, and turn errors into statuses."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import NoReturn

import grpc

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.checking.prompt_value import token_ids
from runtime.errors import ConfigError, DeadlineExceeded, PacelineError
from runtime.gateway.limits import GatewayBusy, GatewayDown, RequestRejected
from runtime.links.to_wire import put_logprobs, put_stats
from runtime.links.wire_values import REASONS
from runtime.requests.accepted_tokens import AcceptedTokens
from runtime.requests.admission import Admission, Admitted
from runtime.requests.answer_events import TokensEvent, answer_events
from runtime.requests.prompt_reader import PromptReader
from runtime.requests.prompts import prompt_ids
from runtime.requests.served_model import ServedModel
from runtime.service.call import Context, current_call
from runtime.service.incoming import prompt_of, read_request, reject_unknown_fields

RETRY_AFTER_S = 1


class GenerationServicer(rpc.GenerationServiceServicer):
    """Generates for clients."""

    def __init__(self, admission: Admission, tokens: AcceptedTokens) -> None:
        self._admission = admission
        self._tokens = tokens

    async def Generate(
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Stream the tokens of a request."""
        call = current_call()
        call.begin(context, self._client(context), request.request_id)
        try:
            admitted = await self._admission.admit(
                lambda: read_request(request),
                size_bytes=request.ByteSize(),
                client=call.client,
                name=request.request_id,
                time_left_s=context.time_remaining,
            )
            known = admitted.request
            call.accept(known)
            yield pb.GenerateResponse(
                accepted=pb.Accepted(
                    request_id=known.name,
                    prompt_tokens=known.num_prompt_tokens,
                    seed=known.seed,
                )
            )
            events = self._events(admitted)
            async with aclosing(events):
                async for event in events:
                    yield event
        except PacelineError as error:
            call.reject(error)
            await reject(context, error)

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:
        """Cancel a request, also one that is not accepted yet."""
        name = request.request_id
        was_running = self._admission.cancel(self._client(context), name)
        if was_running is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no request is named {name!r}")
        return pb.CancelResponse(was_running=was_running)

    def _client(self, context: Context) -> str:
        return self._tokens.name_of(context.invocation_metadata(), context.peer())

    async def _events(self, admitted: Admitted) -> AsyncGenerator[pb.GenerateResponse]:
        """Return the wire form of an answer's events, which end with one Finish."""
        request, tokenizer = admitted.request, self._admission.model.tokenizer
        has_samples = len(request.samples) > 1
        last: pb.Finish | None = None
        async with aclosing(answer_events(request, tokenizer, admitted.resume_from)) as events:
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
                    last = pb.Finish(
                        reason=reason, text=event.text, stats=stats, complete=event.complete
                    )
                    continue
                last = pb.Finish(reason=reason)
                yield pb.GenerateResponse(
                    sample_finish=pb.SampleFinish(
                        sample=event.sample,
                        reason=reason,
                        text=event.text,
                        completion_tokens=event.num_tokens,
                        stats=stats,
                        complete=event.complete,
                    )
                )
        assert last is not None
        last.prompt_tokens = request.num_prompt_tokens
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
            await reject(context, error)

    async def Detokenize(
        self, request: pb.DetokenizeRequest, context: Context
    ) -> pb.DetokenizeResponse:
        """Turn tokens into text."""
        try:
            return await self._reader.run(request.ByteSize(), lambda: self._detokenized(request))
        except PacelineError as error:
            await reject(context, error)

    def _tokenized(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
        reject_unknown_fields(request)
        return pb.TokenizeResponse(ids=prompt_ids(prompt_of(request), self._model))

    def _detokenized(self, request: pb.DetokenizeRequest) -> pb.DetokenizeResponse:
        reject_unknown_fields(request)
        model = self._model
        model.limits.check_ids("ids", len(request.ids))
        ids = token_ids(request.ids, "ids", vocab_size=model.vocab_size, may_be_empty=True)
        return pb.DetokenizeResponse(text=model.tokenizer.decode(ids))


async def reject(context: Context, error: PacelineError) -> NoReturn:
    """Abort a call with the status of an error."""
    code = grpc.StatusCode.INTERNAL
    trailing: tuple[tuple[str, str], ...] = ()
    match error:
        case RequestRejected() | ConfigError():
            code = grpc.StatusCode.INVALID_ARGUMENT
        case GatewayBusy():
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            trailing = (("retry-after", str(RETRY_AFTER_S)),)
        case DeadlineExceeded():
            code = grpc.StatusCode.DEADLINE_EXCEEDED
        case GatewayDown():
            code = grpc.StatusCode.UNAVAILABLE
            trailing = (("retry-after", str(RETRY_AFTER_S)),)
    await context.abort(code, str(error), trailing)
