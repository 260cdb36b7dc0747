"""Tokenize prompts in threads, so that a long one does not delay streams."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from runtime.gateway.limits import GatewayBusy

_T = TypeVar("_T")
_SHORT_BYTES = 32 * 1024
_THREADS = 2
_MAX_WAITING = 256


class PromptReader:
    """Has threads for short messages and others for long ones, so that neither waits for the other.

    Tokenizers release Python's lock on long texts.
    """

    def __init__(self) -> None:
        self._short = _Lane("prompt")
        self._long = _Lane("long-prompt")

    async def run(self, size_bytes: int, work: Callable[[], _T]) -> _T:
        """Run work on a message of a given size in a thread, and return its result.

        If the caller is cancelled, work that has not started is dropped.

        Raises:
            GatewayBusy: too many messages of such a size are waiting.
        """
        return await (self._short if size_bytes <= _SHORT_BYTES else self._long).run(work)

    def close(self) -> None:
        """Drop waiting work; threads end when theirs is done."""
        self._short.close()
        self._long.close()


class _Lane:
    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix=name)
        self._num_waiting = 0

    async def run(self, work: Callable[[], _T]) -> _T:
        if self._num_waiting >= _MAX_WAITING:
            raise GatewayBusy(f"{self._num_waiting} prompts wait to be tokenized: try again later")
        self._num_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._num_waiting -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
