"""What a call holds is freed when the call ends: the garbage collector is off in these tests."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import grpc
import pytest

from runtime.channels.releasing import ReleasingInterceptor


class Message:
    """A message that its readers may refer to weakly."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        MESSAGES.add(self)


MESSAGES: WeakSet[Message] = WeakSet()


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    MESSAGES.clear()
    gc.disable()
    yield
    gc.enable()


async def aborts(request: Message, context: Any) -> None:
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{len(request.data)} bytes")


async def aborts_for_an_error(request: Message, context: Any) -> None:
    try:
        int(request.data)
    except ValueError as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


async def answers(request: Message, _: Any) -> bytes:
    return request.data


async def stream_aborts(request: Message, context: Any) -> AsyncIterator[bytes]:
    yield request.data
    await aborts_for_an_error(request, context)


async def stream_answers(request: Message, _: Any) -> AsyncIterator[bytes]:
    yield request.data


async def ask(serve: Any) -> tuple[list[bytes], str]:
    """Return what a server with one method answers, and the status's details."""
    streams = serve.__name__.startswith("stream")
    make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
    server = grpc.aio.server(interceptors=[ReleasingInterceptor()])
    handler = make(serve, request_deserializer=Message)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"m": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    answers, details = [], ""
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                if streams:
                    answers = [
                        answer async for answer in channel.unary_stream("/s/m", None, None)(b"word")
                    ]
                else:
                    answers = [await channel.unary_unary("/s/m", None, None)(b"word")]
            except grpc.aio.AioRpcError as error:
                details = error.details() or ""
            with suppress(TimeoutError):
                async with asyncio.timeout(10):
                    while MESSAGES:
                        await asyncio.sleep(0.01)
    finally:
        await server.stop(None)
    return answers, details


@pytest.mark.parametrize(
    ("serve", "expected"),
    [
        (aborts, ([], "4 bytes")),
        (aborts_for_an_error, ([], "invalid literal for int() with base 10: b'word'")),
        (stream_aborts, ([], "invalid literal for int() with base 10: b'word'")),
        (answers, ([b"word"], "")),
        (stream_answers, ([b"word"], "")),
    ],
)
def test_the_message_of_a_call_is_freed_when_the_call_ends(
    serve: Any, expected: tuple[list[bytes], str]
) -> None:
    assert asyncio.run(ask(serve)) == expected
    assert not MESSAGES
