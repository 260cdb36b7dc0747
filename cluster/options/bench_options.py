"""Options of the bench verbs."""

from dataclasses import dataclass
from pathlib import Path

from cluster.options.client_options import ConnectOptions
from cluster.options.generate_options import DecodeOptions, PromptOptions
from cluster.options.model_options import ModelOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchLinkOptions:
    """`paceline bench link`."""

    count: int
    gap_ms: float
    """Pause between two round trips."""
    ray_address: str | None
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchDecodeOptions:
    """`paceline bench decode`."""

    models: ModelOptions
    decode: DecodeOptions
    prompts: PromptOptions
    modes: tuple[str, ...]
    tps: tuple[int, ...]
    repeats: int
    batch: int
    """Prompts in flight at once."""
    baselines: tuple[str, ...]
    by_category: bool = False
    keep: Path | None = None
    """Where figures are kept as they come, to go on from."""
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchLayersOptions:
    """`paceline bench layer-parallel`."""

    models: ModelOptions
    decode: DecodeOptions
    prompts: PromptOptions
    widths: tuple[int, ...]
    """Layers at a time."""
    drafters: tuple[int, ...]
    """Ranks of the drafter."""
    first: int
    """Layers before this one stay one after the other."""
    calibrate: bool
    plot: Path | None
    """Where the picture goes; None draws none."""
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchServeOptions:
    """`paceline bench serve`."""

    connect: ConnectOptions
    prompts: Path
    num_prompts: int | None
    chat: bool
    clients: int
    rate: float
    """Requests a second over all clients; 0: each client asks as soon as it has its answer."""
    requests: int | None
    """None: each prompt once."""
    max_tokens: int
    ignore_eos: bool
    """Every answer is max_tokens long, so that runs are alike."""
    modes: tuple[str, ...]
    repeats: int
    ttft_s: float
    """A request is good if its first token takes no longer,"""
    gap_s: float
    """and the mean time between its tokens is no longer."""
    seed: int
    plot: Path | None
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchLearnOptions:
    """`paceline bench learn`."""

    config: Path
    methods: tuple[str, ...]
    budget: int
    every: int
    tests: int
    first_lr: float
    out: Path
    settings: tuple[str, ...]
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSeedsOptions:
    """`paceline bench shared-seed`."""

    model: str
    rank: int
    shapes: tuple[tuple[int, int], ...]
    """Directions, and samples of each."""
    wires: tuple[tuple[int, int], ...]
    """Machines, and directions of each."""
    machines: int
    """Whose scalars the timed commits have."""
    length: int
    repeats: int
    threads: int
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchTrainOptions:
    """`paceline bench train`."""

    workers: int
    schemes: tuple[str, ...]
    factors: tuple[float, ...]
    """How slow stragglers are; 1 is none, infinite is a hang."""
    slow: float
    """Share of a worker's jobs at which it is a straggler."""
    steps: int
    batch: int
    step_s: float
    """What a step would take without anything but computing."""
    patience: float
    seed: int
    ray_address: str | None
    json: bool = False
