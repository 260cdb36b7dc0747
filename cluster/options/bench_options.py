"""Options of the bench verbs."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cluster.options.client_options import ConnectOptions
from cluster.options.generate_options import DecodeOptions, PromptOptions
from cluster.options.model_options import ModelOptions, Weights
from cluster.options.schema import (
    Env,
    Flag,
    InputFile,
    NotNegative,
    OutputDirectory,
    OutputFile,
    Picture,
    Positive,
    Repeated,
    Seconds,
)
from parallel.decoding.types import DecodeMode
from runtime.checking.tables import Range, Unset, Word

RayAddress = Annotated[str | None, Flag("--ray"), Env("RAY_ADDRESS"), Unset("local")]
"""Where a verb without models gets its actors."""
Temperature = Annotated[float, Range(least=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchLinkOptions:
    """Measure a message's round trip between two processes, over each kind of link."""

    count: Annotated[int, Range(least=2)] = 2000
    """Round trips over each link."""
    gap_ms: Annotated[float, Range(least=0)] = 0.0
    """Pause between two round trips, in milliseconds; 40 is like a round's."""
    ray_address: RayAddress = None
    """Ray cluster to join: auto, HOST:PORT, or local."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchDecodeOptions:
    """Compare decoding modes, interleaved in one run."""

    models: ModelOptions = ModelOptions(prefix_cache=False, max_batch=1)
    decode: DecodeOptions = DecodeOptions(
        mode=DecodeMode.AUTOREGRESSIVE, max_tokens=64, ignore_eos=True
    )
    input: PromptOptions = PromptOptions()
    modes: tuple[DecodeMode, ...] = (
        DecodeMode.AUTOREGRESSIVE,
        DecodeMode.SPECULATIVE,
        DecodeMode.PEARL,
    )
    """Modes to compare; the first is the reference."""
    tps: Annotated[tuple[Positive, ...], Flag("--tp")] = (1,)
    """Numbers of target ranks to compare."""
    baselines: Annotated[
        tuple[Literal["transformers", "transformers-lookup"], ...], Flag("--baseline")
    ] = ()
    """Baselines to measure in the first rows."""
    repeats: Positive = 3
    """Interleaved repetitions; medians are shown."""
    by_category: bool = False
    """Also compare by the category of the prompts."""
    keep: OutputFile | None = None
    """Keep each prompt's figures in this file, to resume from."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchEnginesOptions:
    """Compare with llama.cpp and transformers on one machine, interleaved in one run.

    All engines get the same tokens, file and threads, and decode greedily past end tokens.
    llama.cpp runs in an environment of its own, which make llama-cpp creates.
    """

    models: ModelOptions = ModelOptions(prefix_cache=False, max_batch=1)
    input: PromptOptions = PromptOptions()
    contenders: tuple[str, ...] = (
        "llama.cpp",
        "llama.cpp:lookup=2",
        "llama.cpp:lookup=10",
        "transformers",
        "autoregressive",
        "auto",
        "auto:lookup",
        "pearl",
    )
    """What to compare, with commas. autoregressive, speculative, pearl or auto, perhaps with a
    drafter as in auto:lookup; llama.cpp and transformers, with lookup=N for their own prompt lookup
    of N tokens. auto is what generate chooses. The tokens of the others are compared with those of
    the first one that is Paceline."""
    llama_python: Path = Path(".venv-llama/bin/python")
    """Python of an environment that has llama-cpp-python."""
    gguf: InputFile | None = None
    """The file that llama.cpp reads, if the target is not a GGUF file itself."""
    max_tokens: Positive = 128
    """Tokens generated for each prompt."""
    prefill_tokens: NotNegative = 512
    """Length of a prompt whose reading is measured separately; 0 leaves that out."""
    repeats: Positive = 3
    """Interleaved repetitions; medians are shown."""
    by_category: bool = False
    """Also compare by the category of the prompts."""
    keep: OutputFile | None = None
    """Keep each prompt's figures in this file, to resume from."""
    out: OutputFile | None = None
    """Write the comparison to this file, as JSON."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchLayersOptions:
    """Compare drafters that run several layers at a time, over several ranks (EasySpec)."""

    models: ModelOptions = ModelOptions(prefix_cache=False, max_batch=1)
    decode: DecodeOptions = DecodeOptions(mode=DecodeMode.PEARL, max_tokens=64, ignore_eos=True)
    input: PromptOptions = PromptOptions()
    widths: tuple[Positive, ...] = (1, 2, 3, 4, 5)
    """Numbers of layers at a time to compare."""
    drafter_tps: Annotated[tuple[Positive, ...], Flag("--drafter-tp")] = (1, 2)
    """Numbers of drafter ranks to compare."""
    first: NotNegative = 0
    """Run layers before this one one after the other."""
    calibrate: bool = True
    """Read inexact keys and values again before each draft."""
    plot: Picture | None = None
    """Draw the comparison to this .png."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchServeOptions:
    """Put load on a running server: waits, goodput, acceptance, rejected requests."""

    connect: ConnectOptions = ConnectOptions(server="127.0.0.1:50051")
    http: str | None = None
    """URL of the server's HTTP API, which gets the load in place of gRPC."""
    prompts: InputFile
    """A .jsonl file of prompts, as for generate."""
    num_prompts: Positive | None = None
    """Only the first prompts of the file."""
    chat: bool = False
    """Wrap prompts in the model's chat template."""
    clients: Positive = 4
    """Connections that requests are spread over."""
    rate: Annotated[float, Range(least=0)] = 0.0
    """Requests a second, at random times; with 0 each client sends the next when answered."""
    requests: Annotated[int | None, Range(least=1), Unset("auto")] = None
    """Requests to send; auto sends each prompt once."""
    max_tokens: Positive = 64
    """Longest answer, in tokens."""
    ignore_eos: bool = False
    """Make every answer max_tokens long, so that runs are alike."""
    modes: tuple[DecodeMode, ...] = ()
    """Modes to compare; without any, the server's."""
    repeats: Positive = 1
    """Interleaved repetitions."""
    ttft_s: Seconds = 2.0
    """Goodput counts requests whose first token took at most these seconds."""
    gap_s: Seconds = 0.2
    """Goodput counts requests whose mean time between tokens was at most these seconds."""
    seed: NotNegative = 0
    """Random seed of requests and their times."""
    plot: Picture | None = None
    """Draw the comparison to this .png."""
    json: bool = False
    """Print JSON, one object a run."""


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
class BenchQualityOptions:
    """Compare weight formats of a model with its float32 reading, on texts that it scores.

    For each format: perplexity, its ratio to that of float32, how often both have the same best
    token, and the divergence of their distributions.
    """

    models: ModelOptions = ModelOptions()
    texts: InputFile
    """A .jsonl file. A line has question and answer, of which the answer is scored, or text."""
    num_texts: Annotated[int | None, Range(least=1), Unset("all")] = 200
    """Only the first texts of the file."""
    formats: Annotated[tuple[Weights, ...], Flag("--weights")] = ("auto",)
    """Weight formats to compare, with commas."""
    chat: bool = False
    """Make a conversation of question and answer, by the model's chat template."""
    max_tokens: Annotated[int, Range(least=2)] = 512
    """Longest text, in tokens; the rest is cut."""
    keep: OutputFile | None = None
    """Keep each text's figures in this file, to resume from."""
    out: OutputFile | None = None
    """Write the comparison to this file, as JSON."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConstraintsOptions:
    """Compare plain, constrained and constrained speculative decoding on tasks that ask for JSON.

    The three take turns. Then, constraints are compiled again and their outputs followed, for the
    processor time of first masks, masks and steps.
    """

    models: ModelOptions = ModelOptions(prefix_cache=False, max_batch=1)
    tasks: InputFile | None = None
    """A .jsonl file of tasks. A line has prompt and json_schema; without a file, tasks that come
    with Paceline."""
    num_tasks: Positive | None = None
    """Only the first tasks."""
    chat: bool = True
    """Wrap prompts in the model's chat template."""
    max_tokens: Positive = 192
    """Longest answer, in tokens."""
    temperature: Temperature = 0.0
    """Sampling temperature; 0 is greedy."""
    seed: NotNegative = 0
    """Random seed."""
    repeats: Positive = 3
    """Interleaved repetitions; medians are shown."""
    keep: OutputFile | None = None
    """Keep each task's figures in this file, to resume from."""
    out: OutputFile | None = None
    """Write the comparison to this file, as JSON."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchGuessesOptions:
    """Show how soon a drafter's guesses hold the target's tokens, on prompts and in one process.

    For each order of the guesses: how often the target's token is among the first ones. And how
    often a verdict is among the outcomes that mode outcomes would draft for.
    """

    models: ModelOptions = ModelOptions(prefix_cache=False, max_batch=1)
    input: PromptOptions = PromptOptions()
    temperatures: Annotated[tuple[Temperature, ...], Flag("--temperature")] = (0.0, 0.6, 1.0)
    """Sampling temperatures, with commas; 0 is greedy."""
    max_tokens: Positive = 48
    """Tokens generated for each prompt."""
    draft_length: Annotated[int, Range(least=2)] = 4
    """Tokens drafted after an outcome, the one that names it included."""
    seed: NotNegative = 0
    """Random seed of the outputs."""
    keep: OutputFile | None = None
    """Keep each prompt's figures in this file, to resume from; odds are learned from the start."""
    out: OutputFile | None = None
    """Write the figures to this file, as JSON."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchStepOptions:
    """Show where the time of one decode step goes: products, attention, head, Python and the rest.

    A step reads the last token and drafts that are all accepted, after a context of a given length,
    in one process and without Ray.
    """

    models: ModelOptions = ModelOptions(prefix_cache=False, max_batch=1)
    context_tokens: Annotated[Positive, Flag("--context")] = 500
    """Tokens before the step."""
    rows: tuple[Positive, ...] = (1, 2, 4, 8, 16)
    """Numbers of tokens that a step reads, with commas."""
    repeats: Positive = 20
    """Steps of each number of rows, in turns; medians are shown."""
    out: OutputFile | None = None
    """Write the figures to this file, as JSON."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchAdaptersOptions:
    """Compare decode steps with adapters to steps of the model alone, interleaved in one process.

    Each step is timed beside one of the model alone. The adapters are random: their numbers do not
    change the time.
    """

    models: ModelOptions = ModelOptions(prefix_cache=False, max_batch=1)
    sequences: tuple[Positive, ...] = (1, 4, 8)
    """Numbers of sequences in a step, with commas."""
    rows: Positive = 1
    """Tokens of each sequence that a step reads; with drafts, there are several."""
    context_tokens: Annotated[Positive, Flag("--context")] = 200
    """Tokens of each sequence before the step."""
    lora_rank: Annotated[Positive, Flag("--rank")] = 8
    """Rank of the adapters."""
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Layers that they adapt, with commas, as q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,
    down_proj."""
    repeats: Positive = 30
    """Steps of each kind, in turns; medians are shown."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchTrainOptions:
    """Time training steps under stragglers, by scheme, on actors whose computing is a wait."""

    workers: Positive = 8
    """Actors."""
    schemes: tuple[str, ...] = (
        "uncoded",
        "frc-1",
        "class-1",
        "cyclic-1",
        "sr-sgc-1-2-1",
        "m-sgc-1-2-2",
        "drop-1",
        "frc-stream",
        "pull",
    )
    """Schemes to compare, as for workers.scheme."""
    factors: Annotated[
        tuple[Annotated[float, Range(least=1), Word("hang", math.inf)], ...], Flag("--stragglers")
    ] = (1.0, 3.0, 10.0, math.inf)
    """How many times as long stragglers take, or hang."""
    slow: Annotated[float, Range(least=0, below=1)] = 0.05
    """Share of its jobs at which a worker is a straggler."""
    steps: Positive = 30
    """Steps of each run."""
    batch: Positive = 96
    """Samples of a step, at least as many as workers."""
    step_s: Seconds = 0.4
    """Seconds of a step that only computes."""
    patience: Annotated[float, Range(above=0)] = 1.0
    """A worker is late after 1 + patience times what the fastest ones take."""
    seed: NotNegative = 0
    """Random seed of stragglers."""
    ray_address: RayAddress = None
    """Ray cluster to join: auto, HOST:PORT, or local."""
    json: bool = False
    """Print JSON, one object a run."""


StepOptions = BenchStepOptions | BenchAdaptersOptions
