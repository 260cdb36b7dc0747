"""Options of the experiment verbs."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentOptions:
    """`paceline experiment run` and `plan`."""

    file: Path
    out: Path | None = None
    """The results directory; None takes the file's."""
    retry: bool = False
    """Measure failed points again."""
    ray_address: str | None = None
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentReportOptions:
    """`paceline experiment report`."""

    directory: Path
    json: bool = False
