"""A wrapped handler runs inside its surroundings, and answers as before."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import pytest

from runtime.channels.handler_wrapping import Observer, wrap_handler


class Surroundings:
    """Records what happens around a call."""

    def __init__(self) -> None:
        self.log: list[object] = []

    @asynccontextmanager
    async def __call__(self, request: object, context: object) -> AsyncIterator[Observer]:
        self.log.append(("enter", request, context))
        try:
            yield self.log.append
        except BaseException as error:
            self.log.append(type(error))
            raise
        self.log.append("leave")


async def answer(request: str, _: Any) -> str:
    return request.upper()


async def stream(request: str, _: Any) -> AsyncIterator[str]:
    for letter in request:
        yield letter


async def fail(request: str, _: Any) -> str:
    raise KeyError(request)


def test_a_unary_call_runs_inside_the_surroundings() -> None:
    around = Surroundings()
    handler = wrap_handler(grpc.unary_unary_rpc_method_handler(answer), around)
    assert asyncio.run(handler.unary_unary("ab", "context")) == "AB"
    assert around.log == [("enter", "ab", "context"), "leave"]


def test_the_surroundings_observe_each_event_of_a_stream() -> None:
    around = Surroundings()
    handler = wrap_handler(grpc.unary_stream_rpc_method_handler(stream), around)

    async def read() -> list[str]:
        return [event async for event in handler.unary_stream("ab", "context")]

    assert asyncio.run(read()) == ["a", "b"]
    assert around.log == [("enter", "ab", "context"), "a", "b", "leave"]


def test_the_surroundings_see_the_error_that_ends_a_call() -> None:
    around = Surroundings()
    handler = wrap_handler(grpc.unary_unary_rpc_method_handler(fail), around)
    with pytest.raises(KeyError, match="ab"):
        asyncio.run(handler.unary_unary("ab", "context"))
    assert around.log[-1] is KeyError


def test_a_stream_that_is_closed_early_leaves_the_surroundings() -> None:
    around = Surroundings()
    handler = wrap_handler(grpc.unary_stream_rpc_method_handler(stream), around)

    async def read_one() -> None:
        async with aclosing(handler.unary_stream("ab", "context")) as events:
            await anext(events)

    asyncio.run(read_one())
    assert around.log[-2:] == ["a", GeneratorExit]


def test_serializers_stay_unless_another_reader_is_given() -> None:
    inner = grpc.unary_unary_rpc_method_handler(answer, bytes.decode, str.encode)
    kept = wrap_handler(inner, Surroundings())
    assert (kept.request_deserializer, kept.response_serializer) == (bytes.decode, str.encode)
    other = wrap_handler(inner, Surroundings(), read=bytes.hex)
    assert other.request_deserializer == bytes.hex
