"""Options of the bench verbs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cluster.options.client_options import ConnectOptions
from cluster.options.generate_options import DecodeOptions, PromptOptions
from cluster.options.model_options import ModelOptions
from cluster.options.schema import (
    Flag,
    InputFile,
    NotNegative,
    OutputDirectory,
    Positive,
    Repeated,
)
from runtime.checking.tables import Range


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
    """Where figures are kept as they come, to continue from."""
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
    """Compare what a job learns from one byte, exact scalars and gradients; resumable."""

    config: InputFile
    """A job with method shared-seed, and data.eval."""
    methods: tuple[str, ...] = ("byte", "exact", "first-order")
    """With commas: byte, exact (scalars), first-order (AdamW on LoRA)."""
    budget: Positive = 20000
    """Sequences that each method learns from."""
    every: Positive = 2000
    """Sequences between two measurements."""
    tests: NotNegative = 200
    """Records to measure on; the first and the last measurement use all."""
    first_lr: Annotated[float, Range(above=0)] = 1e-3
    """Learning rate of first-order."""
    out: OutputDirectory = Path("learn")
    """Directory of curves and states."""
    settings: Annotated[tuple[str, ...], Repeated(), Flag("--set")] = ()
    """section.key=value in place of the file's value; repeatable."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSeedsOptions:
    """Measure a shared-seed step against its forward passes, and bytes at the socket."""

    model: str = "smollm2-135m"
    """The model."""
    rank: Positive = 8
    """Rank of the adapters, on q_proj and v_proj."""
    shapes: tuple[str, ...] = ("1x8", "4x2", "4x4", "8x1")
    """Directions x samples of each, with commas."""
    wires: tuple[str, ...] = ("1x1", "1x16", "8x1", "8x16", "32x4")
    """Machines x directions of each whose bytes are counted, with commas."""
    machines: Positive = 4
    """Machines whose scalars a timed commit has."""
    length: Annotated[int, Range(least=2)] = 24
    """Tokens of a sample."""
    repeats: Positive = 7
    """Repeats of each measurement, in turns."""
    threads: Positive = 1
    """Threads of the forward passes."""
    json: bool = False
    """Print JSON."""


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
