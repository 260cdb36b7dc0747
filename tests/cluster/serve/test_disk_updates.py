"""What appears on disk is taken, and what is faulty there is a warning and nothing more."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from cluster.serve.disk_updates import DiskUpdates
from runtime.errors import ConfigError, PeerLost
from runtime.requests.served_adapters import ServedAdapter

ADAPTER = ServedAdapter(name="a", version="a@1", directory=Path("/job/final"), num_bytes=1)


class Watch:
    """Does at each look what is next in a list, and nothing after its end."""

    name, job = "a", Path("/job")

    def __init__(self, *results: Any) -> None:
        self._results = list(results)
        self.has_served = False
        self.looked = threading.Event()

    def look(self) -> Any:
        result = self._results.pop(0) if self._results else None
        if not self._results:
            self.looked.set()
        if isinstance(result, Exception):
            raise result
        self.has_served = self.has_served or result is not None
        return result


class Drafting:
    def __init__(self, watch: Any = None) -> None:
        self.watch = watch


class Notes:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str, *, warns: bool = False) -> None:
        self.lines.append(f"warning: {text}" if warns else text)


def updates(*watches: Any, drafter: Any = None) -> tuple[DiskUpdates, Notes]:
    notes = Notes()
    return DiskUpdates(Drafting(drafter), watches, notes), notes


def test_a_start_serves_the_newest_intact_adapter_of_each_job() -> None:
    damaged = ConfigError("/job/final is damaged")
    made, notes = updates(Watch(damaged, damaged, ADAPTER), Watch(), Watch(PeerLost("gone")))
    made.begin()
    assert notes.lines == [
        *["warning: adapter a stays as it is: /job/final is damaged"] * 2,
        "adapter a@1 from /job/final taken",
        "/job has no adapter yet: a is served once it has",
        "warning: adapter a stays as it is: gone",
        "/job has no adapter yet: a is served once it has",
    ]


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("it is [/] truncated"),
        PermissionError("no"),
        ValueError("a [/tensor] of no shape"),
        KeyError("x"),
    ],
)
def test_a_faulty_drafter_or_adapter_is_a_warning(error: Exception) -> None:
    drafter, adapter = Watch(error, "v2"), Watch(error, ADAPTER)
    made, notes = updates(adapter, drafter=drafter)

    async def look() -> None:
        while not (drafter.looked.is_set() and adapter.looked.is_set()):
            made.look()
            await asyncio.sleep(0)

    asyncio.run(look())
    told = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
    assert sorted(notes.lines) == [
        "adapter a@1 from /job/final taken",
        "drafter version v2 taken",
        f"warning: adapter a stays as it is: {told}",
        f"warning: the drafter stays as it is: {told}",
    ]


def test_a_look_that_takes_long_is_not_started_twice() -> None:
    release, started = threading.Event(), []

    class Slow(Watch):
        def look(self) -> Any:
            started.append(threading.get_ident())
            assert release.wait(30)

    made, _ = updates(Slow())

    async def look() -> None:
        while not started:
            made.look()
            await asyncio.sleep(0)
        for _ in range(3):
            made.look()
            await asyncio.sleep(0)
        release.set()

    asyncio.run(look())
    assert len(started) == 1
