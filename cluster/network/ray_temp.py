"""Where a local Ray keeps its session: the path of a Unix socket has at most 107 bytes."""

import os
import tempfile

from runtime.errors import ConfigError

_SHORT = "/tmp"
_SESSION = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1234"
_SOCKET_BYTES = 107


def local_temp_dir() -> str | None:
    """Return the directory for a local Ray's session; None leaves it to Ray.

    Ray uses RAY_TMPDIR, or TMPDIR. /tmp replaces one that is too long for a socket.

    Raises:
        ConfigError: the directory cannot be written; names the variable.
    """
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), None)
    chosen = os.environ[name] if name else _SHORT
    source = f"{name} is {chosen}: it" if name else _SHORT
    if len(os.fsencode(os.path.abspath(chosen) + _SESSION)) > _SOCKET_BYTES:
        _check_writable(_SHORT, f"{name} is {chosen}, too long for a local Ray; {_SHORT}")
        return f"{_SHORT}/ray"
    _check_writable(chosen, source)
    return None


def _check_writable(directory: str, what: str) -> None:
    try:
        with tempfile.TemporaryFile(dir=directory):
            return
    except OSError as error:
        raise ConfigError(
            f"{what} cannot be written ({error.strerror}): set RAY_TMPDIR to a short path of a "
            "directory that can"
        ) from error
