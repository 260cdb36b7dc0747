"""Watch the directory of a trained drafter, and use new versions as they appear."""

from pathlib import Path
from typing import Protocol

from runtime.drafters.draft_checkpoint import check_drafter, read_manifest
from runtime.errors import ConfigError
from runtime.hosts.rank_settings import ModelSettings

_MAX_UNREADABLE = 10  # so many looks in a row; a replacement takes less time


class Swappable(Protocol):
    """Deployments whose drafter can be replaced."""

    def swap_drafter(self, settings: ModelSettings) -> None:
        """Replace the drafter; see `Deployment.swap_drafter`."""
        ...


class DrafterWatch:
    """Detects new versions in a trained drafter's directory, and gives them to the deployments."""

    def __init__(self, deployment: Swappable, settings: ModelSettings) -> None:
        """Watch the drafter that `settings` names.

        Raises:
            ConfigError: it is not a trained drafter.
        """
        assert settings.directory is not None
        assert settings.embedding_directory is not None
        self._deployment = deployment
        self._settings = settings
        self._directory = Path(settings.directory)
        self._target = Path(settings.embedding_directory)
        self.version = read_manifest(self._directory).version
        self._num_unreadable = 0

    def look(self) -> str | None:
        """Use a new version if there is one; return it, or None. Blocks while it loads.

        Raises:
            ConfigError: a new version cannot be used, or the directory has been unreadable for a
                while; the old version stays. Raised once for each.
            PeerError: a rank of the new drafter failed; the old one stays.
        """
        try:
            version = read_manifest(self._directory).version
        except ConfigError:
            self._num_unreadable += 1
            if self._num_unreadable == _MAX_UNREADABLE:
                raise
            return None  # a replacement is under way, or the error was raised before
        self._num_unreadable = 0
        if version == self.version:
            return None
        self.version = version  # each version is tried once
        check_drafter(self._directory, self._target)
        self._deployment.swap_drafter(self._settings)
        return version
