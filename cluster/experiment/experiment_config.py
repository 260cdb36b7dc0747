"""An experiment's TOML file: every key checked before anything starts."""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cluster.options.model_options import Dtype, GroupBackend, LinkKind
from cluster.options.paths import check_stays
from parallel.decoding.types import DecodeMode
from parallel.simulation.network import Fabric, Line
from runtime.errors import ConfigError
from runtime.files.documents import read_toml
from runtime.rank.virtual_shard import parse_duration

_GIGA = 1e9


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value  # seconds already, as in the config that a results directory keeps
    try:
        return parse_duration(value)
    except ConfigError as error:
        raise ValueError(str(error)) from error


Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0)]
"""Written as "40ms", "0.5s" or "800us"."""
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
_Value = TypeVar("_Value")
Axis = Annotated[list[_Value], Field(min_length=1)]


class Section(BaseModel):
    """A part of the file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Devices(Section):
    """What virtual devices take; beside a real model, what its devices are assumed to take."""

    target: Seconds = 0.0
    """Of a target forward, whatever the number of ranks."""
    split: Seconds = 0.0
    """Of a target forward on one device; the ranks share it."""
    position: Seconds = 0.0
    """Of each scored position after the first."""
    exchanges: Annotated[int, Field(ge=0)] = 0
    """All-reduces of a target forward."""
    exchange_bytes: Annotated[int, Field(ge=0)] = 256
    """What each carries."""
    draft: Seconds | None = None
    """Of a draft step; or the four below, of a drafter whose ranks share its layers."""
    layers: Count | None = None
    attention: Seconds = 0.0
    """Of one layer, on its rank."""
    mlp: Seconds = 0.0
    """Of one layer on one device; the ranks share it."""
    gather: Seconds = 0.0
    """Of each exchange between drafter ranks, beyond the real one."""
    alpha: Share = 0.8
    """Probability that a draft token is right."""
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of it that is lost with each further layer at a time."""
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check(self) -> "Devices":
        if self.target + self.split <= 0:
            raise ValueError("target and split are both 0: a forward takes time")
        if (self.draft is None) == (self.layers is None):
            raise ValueError("give either draft, or layers with attention and mlp")
        return self


class Network(Section):
    """What links and collectives take in the simulator; latencies are one way."""

    link: Seconds = 0.00075
    """Between leader and drafter."""
    link_gb_s: Rate = 1.0
    """Gigabytes a second."""
    inside: Seconds = 0.0
    """Between two devices of a node."""
    inside_gb_s: Rate = 100.0
    between: Seconds = 0.0
    """Between two nodes."""
    between_gb_s: Rate = 10.0
    per_node: Count = 8
    """Devices of a node."""
    host: Seconds = 0.0008
    """What the leader itself takes for a round."""

    @property
    def line(self) -> Line:
        """Between leader and drafter."""
        return Line(latency_s=self.link, bytes_per_s=self.link_gb_s * _GIGA)

    def fabric(self, per_node: int | None = None) -> Fabric:
        """Return what joins devices."""
        return Fabric(
            inside=Line(latency_s=self.inside, bytes_per_s=self.inside_gb_s * _GIGA),
            between=Line(latency_s=self.between, bytes_per_s=self.between_gb_s * _GIGA),
            per_node=per_node or self.per_node,
        )


class Model(Section):
    """Real models, as `generate` takes them."""

    target: str
    drafter: str | None = None
    prompts: str | None = None
    """A .jsonl file."""
    prompt: str | None = None
    chat: bool = False
    dtype: Dtype = "float32"
    device: str = "cpu"
    threads: Count | None = None
    temperature: Annotated[float, Field(ge=0)] = 0.0


class Requests(Section):
    """What is generated at each point."""

    num: Count = 4
    """Requests of a point."""
    max_tokens: Count = 64
    seed: Annotated[int, Field(ge=0)] = 0
    draft_wait: Seconds = 60.0
    """How long a round waits for a late draft."""
    group: GroupBackend = "auto"
    """Exchange between ranks."""
    link: LinkKind = "grpc"
    place: str = ""
    """As `models.place` of generate, beside what sweep.nodes asks for."""


class Train(Section):
    """A training job whose workers wait in place of computing."""

    sample: Seconds
    """Of one sample on one worker."""
    batch: Count = 96
    steps: Count = 30
    slow: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of its jobs at which a worker is a straggler."""
    patience: Rate = 1.0
    """In rounds, late is who takes 1 + patience times what the fastest take."""
    overhead: Seconds = 0.002
    """What a worker's turn takes beside its samples, in the simulator: a chunk's that is handed out
    by itself, or a round's."""
    turn: Seconds = 0.0
    """What the coordinator takes to receive a result, in the simulator; they come in one after the
    other, so it is what many workers wait for."""
    seed: Annotated[int, Field(ge=0)] = 0


class Sweep(Section):
    """The axes; every combination is a point."""

    nodes: Axis[Count] = [1]
    """Nodes that a target's ranks are spread over."""
    replicas: Axis[Count] = [1]
    """Targets that share the requests, each with its own drafters."""
    tp: Axis[Count] = [1]
    drafters: Axis[Annotated[int, Field(ge=0)]] = [1]
    """Ranks of the drafter; 0 for one in the target's process."""
    layer_parallel: Axis[str | int] = ["off"]
    draft_length: Axis[int | Literal["auto"]] = ["auto"]
    mode: Axis[DecodeMode] = [DecodeMode.PEARL]
    clients: Axis[Count] = [1]
    """Requests in flight at once; another comes as soon as one is answered."""
    rate: Axis[Annotated[float, Field(ge=0)]] = [0.0]
    """Requests a second that come at random times; 0: as soon as others are answered."""
    workers: Axis[Count] = [1]
    scheme: Axis[str] = ["pull"]
    factor: Axis[Annotated[float, Field(ge=1)]] = [1.0]
    """How many times as long a straggler takes; inf hangs."""


class Experiment(Section):
    """A whole experiment."""

    kind: Literal["generate", "train"] = "generate"
    title: str = ""
    out: str
    """The results directory; relative to the file."""
    repeats: Count = 3
    order: Literal["deployment", "sweep"] = "deployment"
    """What is interleaved: the points of a deployment, or the whole sweep, which starts every
    deployment once a repeat."""
    timeline: bool = True
    """Whether the phases of drafting and verifying are recorded."""
    ray: str | None = None
    """Ray cluster to run on; none starts a local one."""
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
    """Read an experiment; paths in it are relative to it.

    Args:
        file: a TOML file.
        out: the results directory, in place of the file's.

    Raises:
        ConfigError: it cannot be read, or something in it cannot be used; names the key.
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
        for name in ("target", "drafter"):  # a directory, or a name that means something
            if (value := getattr(model, name)) and _placed(file, value).is_dir():
                paths[name] = str(_placed(file, value))
        update["model"] = model.model_copy(update=paths)
    return experiment.model_copy(update=update)


def make_experiment(table: dict[str, Any]) -> Experiment:
    """Return a checked experiment.

    Raises:
        ConfigError: something in it cannot be used; names the key.
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
