"""What a running server takes from disk as it appears: new drafters, and adapters of jobs."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from cluster.serve.adapter_watch import AdapterWatch
from cluster.serve.draft_watch import DrafterWatch
from runtime.errors import ConfigError, PacelineError


class Note(Protocol):
    """Prints a line for people."""

    def __call__(self, text: str, *, warns: bool = False) -> None:
        """Print it, as a warning if `warns`."""
        ...


class WatchedDrafter(Protocol):
    """A drafter that an administrator may replace."""

    @property
    def watch(self) -> DrafterWatch | None:
        """What detects its new versions; None if it has none."""
        ...


class DiskUpdates:
    """Looks for new versions in threads, because a look may load for minutes."""

    def __init__(
        self, drafting: WatchedDrafter, watches: Sequence[AdapterWatch], note: Note
    ) -> None:
        """Take what is watched; `note` tells people what was taken, and what was not."""
        self._drafting = drafting
        self._watches = watches
        self._note = note
        self._looks = [_Repeated(self._look_for_drafter), _Repeated(self._look_for_adapters)]

    def begin(self) -> None:
        """Serve the newest intact adapter that each job has now; blocks."""
        for watch in self._watches:
            while not self._look(watch):
                pass  # each look without success rejects one of the job's adapters
            if not watch.has_served:
                self._note(f"{watch.job} has no adapter yet: {watch.name} is served once it has")

    def look(self) -> None:
        """Look for new versions beside the event loop, unless the last look still runs."""
        for look in self._looks:
            look.start()

    def _look_for_drafter(self) -> None:
        watch = self._drafting.watch
        if watch is None:
            return
        try:
            version = watch.look()
        except Exception as error:  # a faulty drafter must not stop requests
            self._note(f"the drafter stays as it is: {_told(error)}", warns=True)
            return
        if version is not None:
            self._note(f"drafter version {version} taken")

    def _look_for_adapters(self) -> None:
        for watch in self._watches:
            self._look(watch)

    def _look(self, watch: AdapterWatch) -> bool:
        """Return False if the watched job may have an older adapter that can be served."""
        try:
            adapter = watch.look()
        except Exception as error:  # a faulty adapter must not stop requests
            self._note(f"adapter {watch.name} stays as it is: {_told(error)}", warns=True)
            return not isinstance(error, ConfigError)
        if adapter is not None:
            self._note(f"adapter {adapter.version} from {adapter.directory} taken")
        return True


class _Repeated:
    """Runs work in a thread, one run at a time."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(asyncio.to_thread(self._work))


def _told(error: Exception) -> str:
    kind = "" if isinstance(error, PacelineError) else f"{type(error).__name__}: "
    return f"{kind}{error}"
