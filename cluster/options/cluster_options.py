"""Options of the verbs about a Ray cluster."""

from dataclasses import dataclass
from typing import Annotated

from cluster.options.model_options import ModelOptions
from cluster.options.schema import Env, Flag, InputDirectory, InputFile, NotNegative

ClusterAddress = Annotated[str, Flag("--ray"), Env("RAY_ADDRESS")]
_THIS_MACHINES = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOptions:
    """Run another verb on a Ray cluster, with its output and exit code here.

    All other options are the verb's. Interrupting stops the job.
    """

    verb: str
    """serve, generate, train, experiment, draft or bench."""
    arguments: tuple[str, ...] = ()
    """The verb's own options."""
    address: Annotated[str, Env("RAY_API_SERVER_ADDRESS")]
    """Ray's dashboard, http://HEAD:8265."""
    runtime_env: InputFile | None = None
    """YAML or JSON file with env_vars, pip, excludes and so on of Ray's runtime_env."""
    working_dir: InputDirectory | None = None
    """Directory to upload, in which the job runs; this one by default. Files that .gitignore names,
    .git and .venv are not uploaded."""
    submission_id: str | None = None
    """Name of the job; Ray chooses one by default."""
    detach: bool = False
    """Print the job's name and do not follow it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """Check nodes, versions and links of a cluster, and whether a target fits.

    The exit code is 1 if there is a problem.
    """

    models: ModelOptions = ModelOptions(ray_address=_THIS_MACHINES)
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStartOptions:
    """Start a server on this node that the cluster keeps up; all other options are serve's.

    It outlives this command. A server that dies, or whose keeper dies, is restarted; with
    --journal it continues with the requests it had.
    """

    name: str
    """Name of the service."""
    arguments: tuple[str, ...] = ()
    """The options of serve."""
    restarts: Annotated[NotNegative, Flag("--keep-restarts")] = 5
    """Times in ten minutes that the server is restarted."""
    ray_address: ClusterAddress = _THIS_MACHINES
    """Ray cluster: auto (the one on this machine) or HOST:PORT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceListOptions:
    """Show all services: state, time since ready, restarts, addresses."""

    ray_address: ClusterAddress = _THIS_MACHINES
    """Ray cluster: auto (the one on this machine) or HOST:PORT."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLogsOptions:
    """Print the last lines of a service's output."""

    name: str
    """Name of the service."""
    ray_address: ClusterAddress = _THIS_MACHINES
    """Ray cluster: auto (the one on this machine) or HOST:PORT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStopOptions:
    """Drain a service: it finishes in-flight requests, rejects new ones and ends."""

    name: str
    """Name of the service."""
    ray_address: ClusterAddress = _THIS_MACHINES
    """Ray cluster: auto (the one on this machine) or HOST:PORT."""
