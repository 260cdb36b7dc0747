"""The root of every error that Paceline raises; `runtime/errors.py` draws the tree."""


class PacelineError(Exception):
    """Root of the tree."""
