"""Run the work for a request only as long as its client is connected."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.types import Receive

from runtime.http.request_body import ClientGone


async def run_while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run work to its end, or cancel it as soon as the client disconnects.

    Args:
        receive: of a request whose body has been read.
        work: answers the request; its own exceptions pass.

    Raises:
        ClientGone: the client disconnected before the work had ended.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
