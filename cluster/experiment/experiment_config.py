"""The TOML file of an experiment; every key is checked before anything starts."""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cluster.options.model_options import GroupBackend, LinkKind, Weights
from cluster.options.paths import check_stays
from cluster.options.place_options import PlaceOptions
from parallel.decoding.types import DecodeMode
from parallel.simulation.network import Fabric, Line
from runtime.checking.tables import make
from runtime.errors import ConfigError
from runtime.files.documents import read_toml
from runtime.rank.virtual_shard import parse_duration

_GIGA = 1e9


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value  # already seconds, as in the config in a results directory
    try:
        return parse_duration(value)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _place(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError("it is a section: write [requests.place]")
    try:
        return make(PlaceOptions, value, "requests.place.")
    except ConfigError as error:
        raise ValueError(str(error)) from error


Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0)]
"""A duration, written as "40ms", "0.5s" or "800us"."""
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
_Value = TypeVar("_Value")
Axis = Annotated[list[_Value], Field(min_length=1)]


class Section(BaseModel):
    """A section of the file; unknown keys are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Devices(Section):
    """Times of virtual devices; with a real model, the times that predictions assume."""

    target: Seconds = 0.0
    """Time of a target forward that does not depend on the number of ranks."""
    split: Seconds = 0.0
    """Time of a target forward on one device that is divided among the ranks."""
    position: Seconds = 0.0
    """Time of each scored position after the first."""
    exchanges: Annotated[int, Field(ge=0)] = 0
    """The number of all-reduces in a target forward."""
    exchange_bytes: Annotated[int, Field(ge=0)] = 256
    """The size of each all-reduce."""
    draft: Seconds | None = None
    """Time of a draft step; the next four keys replace it if drafter ranks share the layers."""
    layers: Count | None = None
    attention: Seconds = 0.0
    """Time of the attention of one layer, on its rank."""
    mlp: Seconds = 0.0
    """Time of the MLP of one layer on one device, divided among the ranks."""
    gather: Seconds = 0.0
    """Time of each exchange between drafter ranks, in addition to the real exchange."""
    branch: Seconds = 0.0
    """Time that each further branch adds to a draft step, in mode outcomes."""
    alpha: Share = 0.8
    """Probability that a draft token is accepted."""
    beta: Share = 0.0
    """Probability that the drafter's next guess is right where those before were wrong."""
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of alpha lost for each additional layer that runs in parallel."""
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check(self) -> "Devices":
        if self.target + self.split <= 0:
            raise ValueError("target and split are both 0: raise one of them")
        if (self.draft is None) == (self.layers is None):
            raise ValueError("give either draft, or layers with attention and mlp")
        return self


class Network(Section):
    """Links and collectives in the simulator; latencies are one-way."""

    link: Seconds = 0.00075
    """Latency between leader and drafter."""
    link_gb_s: Rate = 1.0
    """Bandwidth in gigabytes per second."""
    inside: Seconds = 0.0
    """Latency between two devices of a node."""
    inside_gb_s: Rate = 100.0
    between: Seconds = 0.0
    """Latency between two nodes."""
    between_gb_s: Rate = 10.0
    per_node: Count = 8
    """The number of devices on a node."""
    host: Seconds = 0.0008
    """The leader's own time for a round."""

    @property
    def line(self) -> Line:
        """The link between leader and drafter."""
        return Line(latency_s=self.link, bytes_per_s=self.link_gb_s * _GIGA)

    def fabric(self, per_node: int | None = None) -> Fabric:
        """Return the links between devices."""
        return Fabric(
            inside=Line(latency_s=self.inside, bytes_per_s=self.inside_gb_s * _GIGA),
            between=Line(latency_s=self.between, bytes_per_s=self.between_gb_s * _GIGA),
            per_node=per_node or self.per_node,
        )


class Model(Section):
    """Real models, with the options of `generate`."""

    target: str
    drafter: str | None = None
    prompts: str | None = None
    """A .jsonl file."""
    prompt: str | None = None
    chat: bool = False
    weights: Weights = "auto"
    device: str = "cpu"
    threads: Count | None = None
    temperature: Annotated[float, Field(ge=0)] = 0.0


class Requests(Section):
    """The requests that run at each point."""

    num: Count = 4
    """The number of requests at a point."""
    max_tokens: Count = 64
    seed: Annotated[int, Field(ge=0)] = 0
    draft_wait: Seconds = 60.0
    """The maximum time that a round waits for a draft."""
    group: GroupBackend = "auto"
    """The backend of collectives between ranks."""
    link: LinkKind = "grpc"
    place: Annotated[PlaceOptions, BeforeValidator(_place)] = PlaceOptions()
    """`models.place` of `generate`; without `target`, sweep.nodes decides where its ranks go."""


class Train(Section):
    """A training job with workers that wait instead of computing."""

    sample: Seconds
    """Time of one sample on one worker."""
    batch: Count = 96
    steps: Count = 30
    slow: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the jobs in which a worker is a straggler."""
    patience: Rate = 1.0
    """A worker is late in a round after 1 + patience times the time of the fastest workers."""
    overhead: Seconds = 0.002
    """Simulated time of a worker's turn in addition to its samples; a turn is a chunk of a queue
    scheme, or a round."""
    turn: Seconds = 0.0
    """Simulated time in which the coordinator receives a result; it receives one at a time, so
    with many workers this time limits the step."""
    seed: Annotated[int, Field(ge=0)] = 0


class Sweep(Section):
    """The axes of the sweep; every combination is a point."""

    nodes: Axis[Count] = [1]
    """The number of nodes for the ranks of a target."""
    replicas: Axis[Count] = [1]
    """The number of targets that share the requests, each with its own drafters."""
    tp: Axis[Count] = [1]
    drafter_tp: Axis[Annotated[int, Field(ge=0)]] = [1]
    """The number of drafter ranks; 0 for an inline drafter."""
    drafters: Axis[Count] = [1]
    """The number of drafters of each target, each with `drafter_tp` ranks."""
    layer_parallel: Axis[str | int] = ["off"]
    draft_length: Axis[int | Literal["auto"]] = ["auto"]
    alpha: list[Share] = []
    """The probability that a draft token is accepted; empty: that of devices.alpha."""
    draft: list[Annotated[Seconds, Field(gt=0)]] = []
    """The time of a draft step; empty: that of devices.draft."""
    mode: Axis[DecodeMode] = [DecodeMode.PEARL]
    clients: Axis[Count] = [1]
    """The number of requests in flight; each answer starts the next request."""
    rate: Axis[Annotated[float, Field(ge=0)]] = [0.0]
    """Requests per second at random times; 0 starts a request after each answer."""
    workers: Axis[Count] = [1]
    scheme: Axis[str] = ["pull"]
    factor: Axis[Annotated[float, Field(ge=1)]] = [1.0]
    """The slowdown factor of a straggler; inf hangs."""


class Experiment(Section):
    """An experiment."""

    kind: Literal["generate", "train"] = "generate"
    title: str = ""
    out: str
    """The results directory, relative to the file."""
    repeats: Count = 3
    order: Literal["deployment", "sweep"] = "deployment"
    """Interleave the repeats within each deployment, or across the whole sweep, which starts each
    deployment once for every repeat."""
    timeline: bool = True
    """Whether to record the spans of drafting and verification."""
    ray: str | None = None
    """The Ray cluster to run on; None starts a local one."""
    devices: Devices | None = None
    network: Network = Network()
    model: Model | None = None
    requests: Requests = Requests()
    train: Train | None = None
    sweep: Sweep

    @model_validator(mode="after")
    def _check(self) -> "Experiment":
        if self.kind == "train" and self.train is None:
            raise ValueError('kind is "train": add a section [train]')
        if self.kind == "generate" and self.model is None and self.devices is None:
            raise ValueError("add [devices] for virtual devices, or [model] for a real one")
        return self


def load_experiment(file: Path, out: Path | None = None) -> Experiment:
    """Read an experiment; relative paths in it start at its directory.

    Args:
        file: a TOML file.
        out: the results directory; overrides the one in the file.

    Raises:
        ConfigError: the file cannot be read, or a value is invalid; the message names the key.
    """
    table = read_toml(file)
    try:
        experiment = make_experiment(table)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    results = out.absolute() if out is not None else _placed(file, experiment.out)
    check_stays(results, "out", "with --out /DIRECTORY")
    update: dict[str, object] = {"out": str(results)}
    model = experiment.model
    if model is not None:
        paths: dict[str, str] = {}
        if model.prompts is not None:
            paths["prompts"] = str(_placed(file, model.prompts))
        for name in ("target", "drafter"):  # a directory, or a name with a special meaning
            if (value := getattr(model, name)) and _placed(file, value).is_dir():
                paths[name] = str(_placed(file, value))
        update["model"] = model.model_copy(update=paths)
    return experiment.model_copy(update=update)


def make_experiment(table: dict[str, Any]) -> Experiment:
    """Return the validated experiment.

    Raises:
        ConfigError: a value is invalid; the message names the key.
    """
    try:
        return Experiment.model_validate(table)
    except ValidationError as error:
        raise ConfigError("; ".join(_complaint(each) for each in error.errors()[:3])) from error


def _placed(file: Path, name: str) -> Path:
    return Path(os.path.normpath(file.absolute().parent / Path(name).expanduser()))


def _complaint(error: Any) -> str:
    where = [part for part in error["loc"] if isinstance(part, str | int)]
    name = ".".join(str(part) for part in where) or "the experiment"
    if error["type"] == "extra_forbidden":
        known = _keys(where[:-1])
        near = get_close_matches(str(where[-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        return f"the experiment has an unknown key {name}; {hint}"
    if error["type"] == "missing":
        return f"{name} is missing from the experiment"
    return f"{name} is {error['input']!r}: {error['msg'].removeprefix('Value error, ')}"


def _keys(path: list[str | int]) -> list[str]:
    sections: dict[str, type[Section]] = {
        "devices": Devices,
        "network": Network,
        "model": Model,
        "requests": Requests,
        "train": Train,
        "sweep": Sweep,
    }
    section = sections.get(str(path[0]), Experiment) if path else Experiment
    return list(section.model_fields)
