"""Watch the directory of a fine-tuning job, and serve its newest adapter as it appears."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from runtime.errors import ConfigError, InvalidValue, PeerError
from runtime.files.directory_state import DirectoryState, directory_state
from runtime.requests.served_adapters import ServedAdapter, ServedAdapters, checked_adapter_name
from runtime.training.adapters.adapter_config import CONFIG_FILE
from runtime.training.adapters.saving import results_of
from runtime.training.job.job_lock import LOCK
from runtime.training.job_checkpoint import JOB_FILE


class Adapting(Protocol):
    """Serves adapters by name; see `AdapterFleet`."""

    def add(self, name: str, directory: str) -> ServedAdapter:
        """Serve an adapter under a name, in place of an older one."""
        ...


class AdapterWatch:
    """Detects new adapters of one job, and serves the newest one that is intact."""

    def __init__(self, name: str, job: Path, adapting: Adapting, adapters: ServedAdapters) -> None:
        """Watch a directory, which need not exist yet; what lies in it now is taken as complete.

        Args:
            name: what requests name.
            job: the directory.
            adapting: serves what is found.
            adapters: what is served.
        """
        self.name = name
        self.job = job
        self._adapting = adapting
        self._adapters = adapters
        self._before = _states(job)
        self._served: DirectoryState | None = None
        self._version: str | None = None
        self._rejected: dict[Path, DirectoryState] = {}
        self._has_told = False
        self._is_over = False
        adapters.wait_for(name, job)

    @property
    def has_served(self) -> bool:
        """Whether an adapter of the job was served."""
        return self._version is not None

    def look(self) -> ServedAdapter | None:
        """Serve the job's newest intact adapter; return it, or None if it is served already.

        A directory is read once it has not changed between two looks, and once in each state.
        Blocks until the engines hold the adapter.

        Raises:
            ConfigError: a new adapter cannot be served, and the next look tries the one before it;
                or an administrator has changed what the name stands for, which ends the watch.
                What was served stays. Raised once for each.
            PeerError: an engine did not take it; what was served stays, and the next look tries it
                again. Raised once in a row.
        """
        if self._is_over:
            return None
        self._check_name()
        before, self._before = self._before, _states(self.job)
        for directory, state in self._before.items():
            if state == self._served:
                break
            if before.get(directory) == state and self._rejected.get(directory) != state:
                return self._serve(directory, state)
        return None

    def _serve(self, directory: Path, state: DirectoryState) -> ServedAdapter | None:
        try:
            adapter = self._adapting.add(self.name, str(directory))
        except ConfigError:
            self._rejected[directory] = state
            raise
        except PeerError:
            if self._has_told:
                return None
            self._has_told = True
            raise
        self._served, self._version, self._has_told = state, adapter.version, False
        return adapter

    def _check_name(self) -> None:
        """Raise ConfigError, and end the watch, if another has changed what the name stands for."""
        known = self._adapters.find(self.name)
        if (None if known is None else known.version) != self._version:
            self._is_over = True
            raise ConfigError(f"an administrator has changed it: {self.job} is no longer watched")


def parse_watches(
    texts: Sequence[str], *, model: str, taken: Collection[str]
) -> list[tuple[str, Path]]:
    """Return the names and the jobs' directories in values of the form DIR or NAME=DIR.

    Args:
        texts: the values.
        model: the served model's name.
        taken: names of other adapters.

    Raises:
        ConfigError: a name or a directory cannot be used.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, mark, directory = text.partition("=")
        if not mark or "/" in name:  # a path with such a sign
            name, directory = "", text
        job = _job(directory)
        name = checked_adapter_name(name or job.name, model, "watch")
        if name in found or name in taken:
            raise InvalidValue(f"`watch` names {name!r}, which is taken: write NAME={directory}")
        found[name] = job
    return list(found.items())


def _job(directory: str) -> Path:
    """Return the directory of a job, which may come to be later.

    Raises:
        ConfigError: something else is there.
    """
    try:
        job = Path(directory).expanduser().absolute()
        names = {file.name for file in job.iterdir()} if job.exists() else set[str]()
        has_results = bool(names) and bool(results_of(job))
    except (RuntimeError, OSError, ValueError) as error:  # no home directory, no directory, a NUL
        raise ConfigError(f"`watch` {directory[:200]!r} cannot be read: {error}") from error
    if CONFIG_FILE in names:
        raise ConfigError(f"`watch` {job} is one adapter, not a job: serve it with `adapter`")
    if names - {LOCK} and JOB_FILE not in names and not has_results:
        raise ConfigError(
            f"`watch` {job} is not the directory of a fine-tuning job: it has no {JOB_FILE}"
        )
    return job


def _states(job: Path) -> dict[Path, DirectoryState]:
    """Return the states of a job's results, the newest first."""
    try:
        found = [(directory, directory_state(directory)) for directory in results_of(job)]
    except OSError:
        return {}
    return {directory: state for directory, state in found if state is not None}
