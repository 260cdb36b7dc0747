"""/v1/completions and /v1/chat/completions: admit a request, and stream or collect its answer."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from runtime.errors import PacelineError
from runtime.http.answer_forms import AnswerForm
from runtime.http.caller import client_name
from runtime.http.client_watch import run_while_connected
from runtime.http.event_stream import EventStream
from runtime.http.http_call import HttpCall
from runtime.http.http_errors import error_body, error_response
from runtime.http.http_spans import generation_span
from runtime.http.openai_requests import OpenAiRequest
from runtime.http.request_body import ClientGone, JsonBody, UnreadBody, read_json
from runtime.http.tool_calls import tool_form
from runtime.requests.accepted_tokens import AcceptedTokens
from runtime.requests.admission import Admission, Admitted
from runtime.requests.answer_events import SampleEnd, TokensEvent, answer_events
from runtime.requests.generation_span import RECORDED, GenerationSpan

_SHORT_BYTES = 32 * 1024
Reading = Callable[[Mapping[str, Any], str | None], OpenAiRequest]


class GenerationEndpoint:
    """Generates for clients; an ASGI application for one path."""

    def __init__(
        self, admission: Admission, tokens: AcceptedTokens, read: Reading, *, max_body_bytes: int
    ) -> None:
        """Prepare to serve.

        Args:
            admission: brings requests to the gateway.
            tokens: name the clients.
            read: returns the request that a body and the last event's id make.
            max_body_bytes: size above which a body is rejected.
        """
        self._admission = admission
        self._tokens = tokens
        self._read = read
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        call = HttpCall(self._admission.gateway, client_name(scope, self._tokens))
        try:
            body = await read_json(request, self._max_body_bytes)
            last_event_id = request.headers.get("last-event-id")
            work = self._answer(call, body, last_event_id, (scope, receive, send))
            await run_while_connected(receive, work)
        except ClientGone:
            return
        except PacelineError as error:
            call.reject(error)
            response = error_response(error, closes=isinstance(error, UnreadBody))
            await response(scope, receive, send)
        finally:
            call.end()

    async def _answer(
        self,
        call: HttpCall,
        body: JsonBody,
        last_event_id: str | None,
        connection: tuple[Scope, Receive, Send],
    ) -> None:
        asked = await self._parsed(body, last_event_id)
        call.name = asked.request_id
        span = generation_span(connection[0])
        span.asked(_recorded(asked), is_chat=asked.is_chat, streams=asked.streams)
        admitted = await self._admission.admit(
            lambda: asked.generation,
            size_bytes=len(body.data),
            client=call.client,
            name=asked.request_id,
            time_left_s=lambda: call.time_left_s(asked.generation.timeout_s),
        )
        call.accept(admitted.request)
        form = AnswerForm(asked, self._admission.model, admitted.request, admitted.resume_from)
        span.accepted(admitted.request.num_prompt_tokens, form.id)
        headers = {"x-request-id": form.id, "x-paceline-seed": str(admitted.request.seed)}
        if asked.streams:
            stream = EventStream(connection[2])
            await self._stream(admitted, form, asked, stream, headers, span)
            return
        async with aclosing(self._events(admitted, span)) as events:
            async for event in events:
                form.collect(event)
        await JSONResponse(form.whole(), headers=headers)(*connection)

    async def _parsed(self, body: JsonBody, last_event_id: str | None) -> OpenAiRequest:
        """Return the request of a body; a long one is parsed beside the event loop."""

        def parse() -> OpenAiRequest:
            asked = self._read(body.parse(), last_event_id)
            model = self._admission.model
            if asked.has_tools:
                tool_form(model.tokenizer.tool_template, model.name)
            return asked

        if len(body.data) <= _SHORT_BYTES:
            return parse()
        return await self._admission.reader.run(len(body.data), parse)

    async def _events(
        self, admitted: Admitted, span: GenerationSpan
    ) -> AsyncGenerator[TokensEvent | SampleEnd]:
        """Yield the events of an answer, and record them."""
        request, tokenizer = admitted.request, self._admission.model.tokenizer
        async with aclosing(answer_events(request, tokenizer, admitted.resume_from)) as events:
            async for event in events:
                if isinstance(event, SampleEnd):
                    span.sample_ended(event.reason, event.stats)
                else:
                    span.continued()
                yield event
        span.ended(sum(len(journal.token_ids) for journal in request.samples))

    async def _stream(
        self,
        admitted: Admitted,
        form: AnswerForm,
        asked: OpenAiRequest,
        stream: EventStream,
        headers: dict[str, str],
        span: GenerationSpan,
    ) -> None:
        """Send the chunks of an answer; a failure is the last event, without a [DONE]."""
        await stream.open(headers)
        try:
            for chunk in form.openings():
                await stream.write(chunk)
            async with stream.kept_alive(), aclosing(self._events(admitted, span)) as events:
                async for event in events:
                    chunks = form.chunks(event)
                    for chunk in chunks:
                        await stream.write(chunk, form.position if asked.request_id else "")
            if asked.has_usage:
                await stream.write(form.usage_chunk())
            await stream.done()
        except PacelineError as error:
            span.failure = error
            await stream.write(error_body(error))
        await stream.close()


def _recorded(asked: OpenAiRequest) -> dict[str, Any]:
    """Return the fields of a request that its span has."""
    found = {name: getattr(asked.generation.sampling, name) for name in RECORDED}
    return {name: value for name, value in found.items() if value is not None}
