"""Options of the train verbs."""

from dataclasses import dataclass
from typing import Annotated

from cluster.options.client_options import ConnectOptions
from cluster.options.model_options import RayAddress
from cluster.options.schema import (
    Flag,
    InputDirectory,
    InputFile,
    NewDirectory,
    Positive,
    Repeated,
    Seconds,
)
from runtime.checking.tables import Range, Unset
from runtime.training.job.faults_config import FaultsConfig

JobSettings = Annotated[tuple[str, ...], Repeated(), Flag("--set")]
"""`section.key=value` texts, in place of values of a job's file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """Fine-tune a model as a job file describes, or resume a run of it that was cut.

    The same as paceline train CONFIG.toml.
    """

    config: InputFile
    """The job: a TOML file (docs/training.md)."""
    settings: JobSettings = ()
    """section.key=value in place of the file's value; repeatable."""
    ray_address: RayAddress = None
    """Ray cluster to join: auto, HOST:PORT, or local."""
    json: bool = False
    """Print JSON, one object a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlanOptions:
    """Show what a job needs before it starts: memory by part, and the bytes that a step sends.

    A model's config.json suffices. A job that cannot fit is rejected, as `train` does.
    """

    config: InputFile
    """The job: a TOML file (docs/training.md)."""
    settings: JobSettings = ()
    """section.key=value in place of the file's value; repeatable."""
    bandwidth: Annotated[float | None, Range(above=0), Unset("measured")] = None
    """MB that pass between driver and worker in a second. By default it is measured."""
    ray_address: RayAddress = None
    """Ray cluster to join: auto, HOST:PORT, or local."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResumeOptions:
    """Resume a job that was cut or cancelled, without its file."""

    directory: InputDirectory
    """The job's directory."""
    settings: JobSettings = ()
    """section.key=value in place of the job's value; repeatable."""
    ray_address: RayAddress = None
    """Ray cluster to join: auto, HOST:PORT, or local."""
    json: bool = False
    """Print JSON, one object a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainCancelOptions:
    """Stop a running job after its step; `resume` continues it."""

    directory: InputDirectory
    """The job's directory."""
    timeout_s: Seconds = 120.0
    """Seconds to wait for the end of its step."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStatusOptions:
    """Show the progress of a job."""

    directory: InputDirectory
    """The job's directory."""
    watch: bool = False
    """Show it again after every step, until the job ends."""
    json: bool = False
    """Print JSON, one object a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainMergeOptions:
    """Merge an adapter into its model; the result loads like any model."""

    adapter: InputDirectory
    """An adapter's directory, as OUT/final."""
    out: NewDirectory
    """Directory of the merged model."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJoinOptions:
    """Work for a shared-seed run from outside its cluster: forward passes, one byte a direction."""

    connect: ConnectOptions
    data: InputFile
    """Your samples, a .jsonl file like the job's; they stay on this machine."""
    model: str | None = None
    """The model's directory, where the run's name for it does not exist here."""
    name: str = ""
    """Name of this machine for people to read; its host name by default."""
    reward: str = ""
    """Scorer of answers, where the run trains by rewards: module:function of prompt and answer, or
    grpc://HOST:PORT."""
    threads: Positive = 1
    """Threads of the forward passes."""
    device: str = "cpu"
    """cpu or cuda."""
    give_up_s: Seconds = 300.0
    """Seconds that the run may be silent before this worker ends."""
    faults: FaultsConfig = FaultsConfig()
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReplayOptions:
    """Rebuild the adapter of a shared-seed run from its log, bit for bit."""

    log: InputFile
    """The log of a shared-seed run, OUT/seeds.log."""
    out: NewDirectory
    """Directory of the adapter."""
    base: str | None = None
    """The model that the run started from; the one that the log names by default."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainVerifyOptions:
    """Check that an adapter is the result of its log; the exit code is 1 if it is not."""

    adapter: InputDirectory
    """A published adapter's directory."""
    log: InputFile
    """The seed log to check the adapter against."""
    base: str | None = None
    """The model that the run started from; the one that the log names by default."""
    json: bool = False
    """Print JSON."""
