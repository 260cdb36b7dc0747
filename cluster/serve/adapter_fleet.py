"""The adapters of a server: read here, held by every rank of its engines, named by requests."""

import threading
from collections.abc import Collection, Sequence
from pathlib import Path

from cluster.deploy.fleet import Fleet
from cluster.deploy.target_plan import PlannedModel
from runtime.errors import ConfigError, InvalidValue
from runtime.files.directory_state import directory_state
from runtime.requests.served_adapters import ServedAdapter, ServedAdapters, checked_adapter_name
from runtime.training.adapters.unmerged import BaseModel, read_unmerged


class AdapterFleet:
    """Gives adapters to all engines, and takes back those that no request uses."""

    def __init__(self, fleet: Fleet, target: PlannedModel, adapters: ServedAdapters) -> None:
        """Begin without adapters; the fleet has started."""
        assert target.facts is not None
        assert target.tokenizer is not None
        self._fleet = fleet
        self._adapters = adapters
        self._base = BaseModel(
            name=target.name,
            directory=target.facts.directory,
            config=target.facts.config,
            tokenizer=target.tokenizer,
        )
        self._changing = threading.Lock()

    def add(self, name: str, directory: str) -> ServedAdapter:
        """Serve an adapter under a name, in place of an older one; block until all engines hold it.

        Raises:
            ConfigError: it cannot be served; what was served before stays.
            PeerError: an engine did not take it; what was served before stays.
        """
        checked_adapter_name(name, self._base.name)
        path = _found(directory)
        before = directory_state(path)
        adapter = read_unmerged(path, name, self._base)
        if directory_state(path) != before:
            raise ConfigError(f"{path} changed while it was read: add it when it is complete")
        with self._changing:
            known = self._adapters.find(name)
            if known is None or known.version != adapter.name:
                self._fleet.add_adapter(adapter)
            served = ServedAdapter(
                name=name, version=adapter.name, directory=path, num_bytes=adapter.num_bytes
            )
            self._adapters.put(served)
        return served

    def remove(self, name: str) -> ServedAdapter:
        """Reject new requests that name an adapter; those in flight continue.

        Raises:
            InvalidValue: there is none of this name.
        """
        with self._changing:
            return self._adapters.remove(name)

    def drop(self, versions: Collection[str]) -> None:
        """Take versions that no request uses or will use from all engines."""
        with self._changing:
            for version in versions:
                if self._adapters.dropped(version):
                    self._fleet.remove_adapter(version)


def parse_adapters(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return the names and the directories in values of the form NAME=DIR.

    Raises:
        InvalidValue: there is no name or no directory, or a name occurs twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, mark, directory = text.partition("=")
        if not (name and mark and directory):
            raise InvalidValue(f"`adapter` is {text!r}: write NAME=DIR")
        if name in found:
            raise InvalidValue(f"`adapter` names {name!r} twice: give each adapter its own name")
        found[name] = directory
    return list(found.items())


def _found(directory: str) -> Path:
    try:
        path = Path(directory).expanduser().absolute()
        if path.is_dir():
            return path
    except (RuntimeError, OSError, ValueError):
        pass  # no such home directory, too long, or a NUL
    raise ConfigError(f"the adapter's directory {directory[:200]} does not exist on the server")
