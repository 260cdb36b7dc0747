"""Check the paths that a user names: inputs can be read and outputs written, before any work.

Errors name the option or the key.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from cluster.options.schema import PathUse
from runtime.errors import ConfigError
from runtime.files.documents import check_regular


def check_path(path: Path, use: PathUse, name: str) -> None:
    """Check that a path fits its use.

    Raises:
        ConfigError: the path cannot be used; the message starts with the name.
    """
    if use in _OUTPUTS:
        check_stays(path, name, f"with {name} /PATH")
    try:
        _CHECKS[use](path, name)
    except (OSError, ValueError) as error:  # ValueError: a NUL, or a character outside the locale
        if isinstance(error, ConfigError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{name} {ascii(str(path))[1:-1]:.200}: {reason}") from error


def check_stays(directory: Path, name: str, remedy: str) -> None:
    """Reject a directory of results inside the upload of a job.

    Args:
        directory: the directory of the results.
        name: the option or key that names it.
        remedy: how to name another directory.

    Raises:
        ConfigError: the directory is inside an upload.
    """
    absolute = directory.expanduser().absolute()
    if any(part.startswith("_ray_pkg_") for part in absolute.parts):
        raise ConfigError(
            f"{name} is {absolute}, in this job's upload, which Ray deletes with the job: name a "
            f"directory outside it, {remedy}"
        )


def _check_readable(path: Path, name: str) -> None:
    check_regular(path, kind=name)
    if path.is_file():  # opening a pipe would consume its data
        with path.open("rb") as opened:
            opened.read(1)


def _check_directory(path: Path, name: str) -> None:
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise ConfigError(f"{name} {path} {what}: name a directory")
    os.listdir(path)


def _check_writable(path: Path, name: str) -> None:
    if path.exists():
        check_regular(path, kind=name)
        with path.open("ab"):
            return
    directory = Path(os.path.realpath(path)).parent
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "does not exist"
        raise ConfigError(f"{name} {path} cannot be written: {directory} {what}")
    _try_to_write(directory, path, name)


def _check_picture(path: Path, name: str) -> None:
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{name} {path}: pictures are PNG; name a file that ends in .png")
    _check_writable(path, name)


def _check_fillable(path: Path, name: str) -> None:
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{name} {path} is a file: name a directory")
    _try_to_write(_deepest(path), path, name)


def _check_new(path: Path, name: str) -> None:
    if os.path.lexists(path):
        raise ConfigError(f"{name} {path} exists: name a new directory")
    _try_to_write(_deepest(path), path, name)


def _deepest(path: Path) -> Path:
    """Return the deepest of a path's directories that exists."""
    real = Path(os.path.realpath(path))
    return next(one for one in (real, *real.parents) if one.exists())


def _try_to_write(directory: Path, path: Path, name: str) -> None:
    """Create a temporary file in the directory: permissions alone do not show a full disk."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"\0")
    except OSError as error:
        raise ConfigError(
            f"{name} {path} cannot be written: {directory}: {error.strerror}; name another path"
        ) from error


_OUTPUTS = (PathUse.OUTPUT_FILE, PathUse.PICTURE, PathUse.OUTPUT_DIRECTORY, PathUse.NEW_DIRECTORY)
_CHECKS: dict[PathUse, Callable[[Path, str], None]] = {
    PathUse.INPUT_FILE: _check_readable,
    PathUse.INPUT_DIRECTORY: _check_directory,
    PathUse.OUTPUT_FILE: _check_writable,
    PathUse.PICTURE: _check_picture,
    PathUse.OUTPUT_DIRECTORY: _check_fillable,
    PathUse.NEW_DIRECTORY: _check_new,
}
