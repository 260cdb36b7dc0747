"""Which Paceline this is."""

from importlib.metadata import PackageNotFoundError, version

NOT_INSTALLED = "0+upload"


def package_version() -> str:
    """Return the installed version; code that runs from a job's upload has none."""
    try:
        return version("paceline")
    except PackageNotFoundError:
        return NOT_INSTALLED
