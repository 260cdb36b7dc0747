"""What each verb of the command line was asked for; light to import, so `--help` is quick."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which models run, and on what."""

    target: str | None
    drafter: str | None
    """A model, `target:layers=A-B,C`, `ngram`, `lookup`, or None for the best one known."""
    tp: int = 1
    drafters: int | None = None
    """Ranks of the drafter group; None: one, or none where the drafter works in the target's."""
    layer_parallel: str = "auto"
    """How many of the drafter's layers run their attention at once: off, auto or a number; with
    `@K` only from layer K on."""
    virtual: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    threads: int | None = None
    """Threads of each model rank; None shares the cores out."""
    group_backend: str = "auto"
    link: str = "grpc"
    """Between leader and drafter: grpc, gloo or nccl."""
    place: str | None = None
    """Which nodes the ranks go to, as `PlaceOptions.parse` reads it."""
    max_batch: int = 16
    cache_tokens: int | None = None
    """None makes the cache just large enough for the prompts at hand."""
    draft_wait_s: float = 1.0
    prefix_cache: bool = True
    """Whether requests share what they have in common; off where each is to be timed alike."""
    ray_address: str | None = None
    """None starts a local Ray and ends it."""

    @property
    def num_drafters(self) -> int:
        """Ranks of the drafter group, if it has any."""
        return 1 if self.drafters is None else self.drafters


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """How tokens are chosen and when a request ends."""

    mode: str = "auto"
    verifier: str = "match"
    draft_length: int | None = None
    """None leaves it to the controller."""
    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """What is generated from: one of `prompt` and `prompts`."""

    prompt: str | None = None
    prompts: Path | None = None
    num_prompts: int | None = None
    """Take only the first ones of the file."""
    chat: bool = False
    """Wrap each prompt in the model's chat template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """`paceline generate`."""

    models: ModelOptions
    decode: DecodeOptions
    prompts: PromptOptions
    json: bool = False


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
class DraftTrainOptions:
    """`paceline draft train`."""

    models: ModelOptions
    out: Path
    prompts: tuple[Path, ...]
    free_prompts: int
    """Prompts that the target writes itself."""
    num_prompts: int | None
    """Take only the first ones of each file."""
    chat: bool
    max_tokens: int
    layers: int
    init_layers: str | None
    """Target layers to start from; None spreads them evenly."""
    head_vocab: int
    train_head: bool
    steps: int
    batch_tokens: int
    learning_rate: float
    divergence: str
    on_policy: float
    precision: str
    seed: int
    resume: bool
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftFollowOptions:
    """`paceline draft train --follow`."""

    models: ModelOptions
    follow: Path
    """Where a server writes its traffic."""
    out: Path
    rounds: int
    """0 goes on until interrupted."""
    round_steps: int
    window: int
    focus: float
    batch_tokens: int
    learning_rate: float | None
    seed: int
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftSkipOptions:
    """`paceline draft skip`."""

    models: ModelOptions
    prompts: Path
    num_prompts: int
    chat: bool
    max_tokens: int
    trials: int
    seed: int
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftIndexOptions:
    """`paceline draft index`."""

    target: str
    files: tuple[Path, ...]
    out: Path
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftEvalOptions:
    """`paceline draft eval`."""

    models: ModelOptions
    drafters: tuple[str, ...]
    prompts: PromptOptions
    mode: str
    draft_length: int
    max_tokens: int
    temperature: float
    seed: int
    plot: Path | None
    """Where the picture goes; None draws none."""
    keep: Path | None = None
    """Where figures are kept as they come, to go on from."""
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """`paceline serve`."""

    models: ModelOptions
    mode: str
    max_tokens: int
    """Longest answer where a request names none."""
    listen: str
    token_file: Path | None
    admin_token_file: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    client_ca: Path | None
    reflection: bool
    metrics: str | None
    """Where the page for Prometheus listens."""
    log_format: str
    max_open: int
    """Requests queued or running."""
    max_open_per_client: int
    drain_s: float
    replicas: int = 1
    """Deployments of the target side by side."""
    drafter_groups: str = "1"
    """Drafters side by side: a number, or MIN:MAX for an administrator to choose from."""
    step_limit_s: float = 30.0
    """Longest step of a rank that is not taken for stuck."""
    restarts: int = 5
    """Times in ten minutes that a lost target is started anew."""
    journal: Path | None = None
    """Where requests outlive the process."""
    traffic: Path | None = None
    """Where requests and answers are kept for `draft train --follow`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """Which server, and how to prove oneself."""

    server: str
    token_file: Path | None = None
    root_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls: bool = False
    plaintext_token: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """`paceline client`."""

    connect: ConnectOptions
    prompt: str
    chat: bool
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: tuple[str, ...]
    mode: str | None
    n: int | None
    logprobs: int | None
    priority: int
    timeout_s: float | None
    patience_s: float | None
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TopOptions:
    """`paceline top`."""

    connect: ConnectOptions
    interval_s: float
    once: bool
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminOptions:
    """`paceline admin`."""

    connect: ConnectOptions
    action: str
    """"drain", "drafter" or "drafters"."""
    drafter: str = ""
    num_drafters: int = 0


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
