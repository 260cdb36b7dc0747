"""Work for a client runs to its end, or ends when the client does."""

import asyncio
from typing import Any

import pytest

from runtime.http.client_watch import run_while_connected
from runtime.http.request_body import ClientGone


def connection(gone: asyncio.Event) -> Any:
    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive


def test_work_that_ends_first_passes_its_exception() -> None:
    async def fail() -> None:
        raise ValueError("mine")

    async def run() -> None:
        await run_while_connected(connection(asyncio.Event()), asyncio.sleep(0))
        await run_while_connected(connection(asyncio.Event()), fail())

    with pytest.raises(ValueError, match="mine"):
        asyncio.run(run())


def test_work_is_cancelled_when_the_client_leaves() -> None:
    log: list[str] = []

    async def work(gone: asyncio.Event) -> None:
        try:
            gone.set()
            await asyncio.Event().wait()
        finally:
            log.append("cleaned up")

    async def run() -> None:
        gone = asyncio.Event()
        try:
            await run_while_connected(connection(gone), work(gone))
        finally:
            log.append("returned")

    with pytest.raises(ClientGone):
        asyncio.run(run())
    assert log == ["cleaned up", "returned"]


def test_work_is_cancelled_when_the_server_ends() -> None:
    log: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cleaned up")

    async def run() -> None:
        task = asyncio.ensure_future(run_while_connected(connection(asyncio.Event()), work()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())
    assert log == ["cleaned up"]
