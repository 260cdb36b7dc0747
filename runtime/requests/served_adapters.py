"""The adapters that requests can name, each with the version that new requests get.

A version is an adapter's name with the digest of its numbers. A request keeps its version to its
end, whatever the name stands for by then.
"""

import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import InvalidValue

GRACE_S = 30.0
"""How long a version is kept after its last request."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedAdapter:
    """An adapter that the engines hold."""

    name: str
    version: str
    """Its name with the digest of its numbers; `Submit.adapter`."""
    directory: Path
    num_bytes: int
    """The size of its numbers."""


def checked_adapter_name(name: str, model: str, field: str = "adapter") -> str:
    """Return a name that an adapter of a model can have.

    Args:
        name: the name.
        model: the model's.
        field: what holds the name, for errors.

    Raises:
        InvalidValue: it has other characters, or is the model's own.
    """
    if not _NAME.fullmatch(name):
        raise InvalidValue(
            f"`{field}` has the name {name!r}: use up to 64 letters, digits, dots, dashes and "
            "underscores, a letter or digit first"
        )
    if name == model:
        raise InvalidValue(f"`{field}` has the name {name!r}, which is the model's: choose another")
    return name


class ServedAdapters:
    """The adapters of a server, by name; the event loop reads what another thread changes."""

    def __init__(self) -> None:
        """Begin without adapters."""
        self._by_name: dict[str, ServedAdapter] = {}
        self._retired: dict[str, float | None] = {}
        """Versions that were removed or replaced, and when a request last used each, if known."""
        self._awaited: dict[str, Path] = {}

    @property
    def served(self) -> list[ServedAdapter]:
        """Those that new requests can name, in the order of their names."""
        return [known for _, known in sorted(self._by_name.copy().items())]

    def find(self, name: str) -> ServedAdapter | None:
        """Return an adapter that new requests can name."""
        return self._by_name.get(name)

    def wait_for(self, name: str, job: Path) -> None:
        """Note that a name will be served once a job has an adapter."""
        self._awaited[name] = job

    def awaited(self, name: str) -> Path | None:
        """Return the job from which a name will be served."""
        return self._awaited.get(name)

    def put(self, adapter: ServedAdapter) -> None:
        """Serve an adapter that all engines hold, in place of an older version of its name."""
        before = self._by_name.get(adapter.name)
        self._by_name[adapter.name] = adapter
        self._retired.pop(adapter.version, None)
        if before is not None and before.version != adapter.version:
            self._retired[before.version] = None

    def remove(self, name: str) -> ServedAdapter:
        """Reject new requests that name an adapter; those that run continue.

        Raises:
            InvalidValue: there is none of this name; lists those that there are.
        """
        adapter = self._by_name.get(name)
        if adapter is None:
            raise InvalidValue(f"there is no adapter {name!r}: {self.listing()}")
        self._retired[adapter.version] = None
        del self._by_name[name]
        return adapter

    def unused(self, in_use: Container[str], now_s: float) -> list[str]:
        """Return the versions that no request has used for a while, or will use.

        An engine may learn later than this process that a request has ended.

        Args:
            in_use: the versions that requests use.
            now_s: the time.
        """
        found: list[str] = []
        for version, used_s in self._retired.copy().items():
            if version in in_use or used_s is None:
                self._retired[version] = now_s
            elif now_s - used_s > GRACE_S:
                found.append(version)
        return found

    def dropped(self, version: str) -> bool:
        """Forget a version; return False if it is served again, so that engines must keep it."""
        is_retired = version in self._retired
        self._retired.pop(version, None)
        return is_retired

    def listing(self) -> str:
        """Return which adapters there are, for an error."""
        names = ", ".join(known.name for known in self.served)
        return f"this server has {names}" if names else "this server has no adapters"
