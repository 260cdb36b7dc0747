"""The version of Paceline."""

from importlib.metadata import PackageNotFoundError, version

NOT_INSTALLED = "0+upload"


def package_version() -> str:
    """Return the installed version; uploaded code of a job has none."""
    try:
        return version("paceline")
    except PackageNotFoundError:
        return NOT_INSTALLED
