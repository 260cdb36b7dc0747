"""Directories that Ray deletes: a job's upload ends with the job."""

from pathlib import Path

from runtime.errors import ConfigError

_RESULTS = ("out", "keep", "plot", "journal", "traffic")
"""Options of verbs that name where results go, each called as its flag."""


def check_results_stay(options: object) -> None:
    """Refuse a verb's options that write results into a job's upload.

    Raises:
        ConfigError: one does; names the flag.
    """
    for name in _RESULTS:
        place = getattr(options, name, None)
        if isinstance(place, Path):
            check_stays(place, f"--{name}", f"with --{name} /PLACE")


def check_stays(directory: Path, name: str, remedy: str) -> None:
    """Refuse to write results into a job's upload.

    Args:
        directory: where results are to be.
        name: what the user calls it.
        remedy: how to name another place.

    Raises:
        ConfigError: it lies within an upload.
    """
    place = directory.expanduser().absolute()
    if any(part.startswith("_ray_pkg_") for part in place.parts):
        raise ConfigError(
            f"{name} is {place}, in this job's upload, which Ray deletes with the job: name a "
            f"place that stays, {remedy}"
        )
