"""A drafter on disk that may be trained on while it serves: new versions are taken as they come."""

from pathlib import Path
from typing import Protocol

from runtime.drafters.draft_checkpoint import check_drafter, read_manifest
from runtime.errors import ConfigError
from runtime.hosts.rank_settings import ModelSettings

_REPLACED_LOOKS = 10  # after so many, a directory that cannot be read is not just being replaced


class Swappable(Protocol):
    """What drafts with a model that can be replaced: a deployment, or several."""

    def swap_drafter(self, settings: ModelSettings) -> None:
        """Replace it; see `Deployment.swap_drafter`."""
        ...


class DrafterWatch:
    """Looks whether a trained drafter's directory holds another version, and hands it over."""

    def __init__(self, deployment: Swappable, settings: ModelSettings) -> None:
        """Watch the drafter that `settings` names.

        Raises:
            ConfigError: it is no trained drafter.
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
        """Take a new version if there is one; returns it, or None. Blocks while it loads.

        Raises:
            ConfigError: there is a new version that cannot be used, or the directory has not been
                readable for a while; the old one stays. Raised once for each.
            PeerError: a rank of the new drafter failed; the old one stays.
        """
        try:
            version = read_manifest(self._directory).version
        except ConfigError:
            self._num_unreadable += 1
            if self._num_unreadable == _REPLACED_LOOKS:
                raise
            return None  # it is just being replaced, or that was said
        self._num_unreadable = 0
        if version == self.version:
            return None
        self.version = version  # a version is tried once
        check_drafter(self._directory, self._target)
        self._deployment.swap_drafter(self._settings)
        return version
