"""Options of the experiment verbs."""

from dataclasses import dataclass

from cluster.options.model_options import RayAddress
from cluster.options.schema import InputDirectory, InputFile, OutputDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentOptions:
    """Measure what is missing of a sweep and write the report; the same as experiment EXP.toml.

    Run the same command again to resume a sweep that was cut.
    """

    file: InputFile
    """The experiment: a TOML file (docs/experiments.md)."""
    out: OutputDirectory | None = None
    """The results directory; the file's `out` by default."""
    retry: bool = False
    """Measure failed points again."""
    ray_address: RayAddress = None
    """Ray cluster to join: auto, HOST:PORT, or local."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentPlanOptions:
    """Simulate every point of a sweep and write the report; nothing is started."""

    file: InputFile
    """The experiment: a TOML file (docs/experiments.md)."""
    out: OutputDirectory | None = None
    """The results directory; the file's `out` by default."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentReportOptions:
    """Write the report of a results directory again: report.html, charts, and a table."""

    directory: InputDirectory
    """Results directory of an experiment: its `out`."""
    json: bool = False
    """Print JSON."""
