"""What the verbs about a Ray cluster were asked for."""

from dataclasses import dataclass
from pathlib import Path

from cluster.options.model_options import ModelOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOptions:
    """`paceline submit`."""

    arguments: tuple[str, ...]
    """The verb and its options."""
    address: str
    """Ray's job server."""
    runtime_env: Path | None
    working_dir: Path | None
    """None is the current one."""
    submission_id: str | None
    detach: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """Check nodes, versions and links of a cluster, and whether a target fits.

    The exit code is 1 if there is a problem.
    """

    models: ModelOptions = ModelOptions(ray_address="auto")
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """`paceline service`."""

    action: str
    """start, list, logs or stop."""
    name: str = ""
    arguments: tuple[str, ...] = ()
    """The options of serve."""
    restarts: int = 5
    """Times in ten minutes that the server is restarted."""
    ray_address: str
    json: bool = False
