"""Tokenize prompts beside the event loop, so that a long one holds no stream up."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from runtime.gateway.limits import GatewayBusy

_T = TypeVar("_T")
_SHORT_BYTES = 32 * 1024
_THREADS = 2
_MOST_WAITING = 256


class PromptReader:
    """A few threads for short messages and a few for long ones: neither waits for the other.

    Tokenizers work on long texts without Python's lock.
    """

    def __init__(self) -> None:
        self._short = _Lane("prompt")
        self._long = _Lane("long-prompt")

    async def run(self, size_bytes: int, work: Callable[[], _T]) -> _T:
        """Return what some work on a message of that size returns.

        Work that has not begun is dropped when the caller is cancelled.

        Raises:
            GatewayBusy: too many messages of this kind wait.
        """
        return await (self._short if size_bytes <= _SHORT_BYTES else self._long).run(work)

    def close(self) -> None:
        """Drop what waits; threads end with their work."""
        self._short.close()
        self._long.close()


class _Lane:
    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix=name)
        self._num_waiting = 0

    async def run(self, work: Callable[[], _T]) -> _T:
        if self._num_waiting >= _MOST_WAITING:
            raise GatewayBusy(f"{self._num_waiting} prompts wait to be read: try again later")
        self._num_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._num_waiting -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
