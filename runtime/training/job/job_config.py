"""A training job's configuration: one TOML file, every value checked before anything starts."""

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Final, Literal

from parallel.training.gradient_coding.names import ROUND_FORMS, round_scheme
from parallel.training.gradient_coding.queue_schedules import (
    QUEUE_SCHEMES,
    ChunkTimes,
    QueueSchedule,
    QueueScheme,
    QueueShape,
)
from parallel.training.gradient_coding.schemes import Scheme
from parallel.training.learning_rate import Schedule
from runtime.checking.tables import Range, Unset
from runtime.errors import ConfigError
from runtime.training.job.dpo_config import DpoConfig
from runtime.training.job.ending_config import EarlyStopConfig
from runtime.training.job.faults_config import FaultsConfig
from runtime.training.job.ranges import (
    AboveZero,
    NotNegative,
    NotNegativeNumber,
    Positive,
    ShareBelowOne,
)
from runtime.training.job.shared_seed_settings import RUNNING, SharedSeedConfig
from runtime.training.job.watch_config import WatchConfig

AUTO = "auto"
SHARED_SEED: Final = "shared-seed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """The records that a job learns from, and how they become samples."""

    train: str = ""
    """A .jsonl or .parquet file, or a directory of Hugging Face datasets: text, prompt and
    completion, messages, or conversations; or any fields, with `prompt` and `completion` below."""
    mix: dict[str, AboveZero] = field(default_factory=dict)
    """Several such files in place of `train`, each with its share of the samples of a step."""
    eval: str = ""
    """Such a file to evaluate on; without one nothing is evaluated."""
    learn: Literal["last", "all"] = "last"
    """Which turns of the assistant in a conversation are learned."""
    prompt: str = ""
    """Template of a prompt from a record's fields, as "Review: {text}"."""
    completion: str = ""
    """Template of a completion, as " {answer}"; with objective "dpo", of the preferred one."""
    rejected: str = ""
    """With objective "dpo" and templates, that of the completion that is not preferred."""
    words: dict[str, list[str]] = field(default_factory=dict)
    """Words for the numbers of a field, as label = ["bad", "good"]; these are then the choices."""
    among_choices: bool = False
    """Learn to tell the choices apart, not to write them: the loss is among them alone. Each choice
    has to be one token."""
    max_length: Annotated[int, Range(least=2)] = 256
    """Tokens of a sample; longer samples lose their end."""
    batching: Literal["padded", "grouped", "packed"] = "grouped"
    """How a step's samples share a forward: padded to the longest of a microbatch; grouped by
    length before that; or packed into one row without padding, each with its own attention."""
    buffer: Annotated[int | None, Range(least=1), Unset("off")] = None
    """Records that are read at a time, where files are larger than memory: windows of so many
    records come in an order of their own, and each one is shuffled."""
    limit: Annotated[int | None, Range(least=1), Unset("all")] = None
    """Use only the first records of each file."""
    eval_limit: Annotated[int | None, Range(least=1), Unset("limit")] = None
    """Evaluate on the first records only; otherwise `limit` counts for these too."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files that are trained on."""
        return tuple(self.mix) or (self.train,)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """The adapters of method "lora" (Hu et al., arXiv 2106.09685)."""

    rank: Positive = 8
    alpha: AboveZero = 16.0
    targets: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    """Names of the linear layers that get adapters."""
    rank_stabilized: bool = False
    """Scale updates by alpha / sqrt(rank) in place of alpha / rank (rsLoRA)."""
    dora: bool = False
    """Also learn a length for each row of a weight (DoRA, Liu et al., arXiv 2402.09353)."""
    rank_pattern: dict[str, Positive] = field(default_factory=dict)
    """Other ranks, by regular expressions for the end of a layer's name, as in peft."""
    alpha_pattern: dict[str, AboveZero] = field(default_factory=dict)
    """Other alphas, by such expressions."""
    start: str = ""
    """Directory of an adapter with the same settings to start from, as another job's final/."""
    dropout: ShareBelowOne = 0.0
    """Share of a layer's inputs that the update does not see in training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW, its batches, and its learning rate."""

    steps: Positive = 100
    epochs: Annotated[float | None, Range(above=0), Unset("off")] = None
    """In place of `steps`: how often all samples are trained on."""
    batch: Positive = 16
    """Samples of a step."""
    microbatch: Positive = 4
    """Samples of a chunk, which one worker processes at a time. The gradients of a step's chunks
    add up, so a batch needs no more memory than a chunk."""
    lr: AboveZero = 1e-3
    """Peak learning rate."""
    warmup: ShareBelowOne = 0.03
    """Share of the steps in which the rate rises."""
    schedule: Schedule = "cosine"
    """How the rate falls after the warm-up."""
    cycles: Positive = 1
    """Of schedule "cosine-restarts": how often the rate falls from its peak to 0."""
    weight_decay: NotNegativeNumber = 0.0
    no_decay: list[str] = field(default_factory=list)
    """Regular expressions for parts of the names of weights that do not decay, as "norm"."""
    beta1: ShareBelowOne = 0.9
    beta2: ShareBelowOne = 0.999
    clip: Annotated[float | None, Range(above=0), Unset("off")] = 1.0
    """Largest norm of a step's gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersConfig:
    """The workers, and the scheme that shares the work among them."""

    count: NotNegative = 2
    """Workers when there is room for them; they join and leave while the job runs. A shared-seed
    job may have 0 of its own."""
    min: Annotated[int | None, Range(least=1), Unset("all")] = None
    """Workers with which the job starts."""
    tp: Positive = 1
    """Ranks of each worker, over which it splits the model (tensor parallelism)."""
    tp_backend: Literal["auto", "shm", "gloo"] = "auto"
    """How the ranks of a worker exchange what they compute: auto is shared memory on one node."""
    cpus: NotNegativeNumber = 0.0
    """Cores that Ray reserves for each rank of a worker; 0 shares what is there."""
    gpus: NotNegativeNumber = 0.0
    """GPUs that Ray reserves for each worker; above 0 they compute there."""
    scheme: str = "pull"
    """pull, frc-stream, auto, or one that works in rounds: uncoded, frc-S, class-S, cyclic-S,
    roots-S, drop-K, sr-sgc-B-W-L, m-sgc-B-W-L; without numbers it tolerates one straggler."""
    patience: AboveZero = 1.0
    """In rounds, a worker is late after 1 + patience times the time of the fastest ones."""
    profile: Positive = 8
    """Rounds that "auto" measures before it chooses."""
    group: Positive = 2
    """Workers that share their chunks, with scheme "frc-stream"."""
    threads: Positive = 1
    lost_after_s: AboveZero = 60.0
    """A worker that has not returned a chunk for so long is replaced."""
    empty_after_s: AboveZero = 60.0
    """In rounds, a worker whose replacement is not ready for so long is left out of the plan."""
    max_losses: NotNegative = 20
    """Workers that may be replaced before the job fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """What a job saves, and how often."""

    every: Positive = 50
    """Steps between two adapters."""
    keep: Annotated[int | None, Range(least=1), Unset("all")] = None
    """Adapters of steps to keep, the last ones."""
    state_every: Positive = 1
    """Steps between two states from which a run resumes. States are written beside the training."""
    state_every_s: Annotated[float | None, Range(above=0), Unset("off")] = None
    """Seconds after which a state is written in any case."""
    best: bool = True
    """Keep what the best evaluation measured in best/, with methods "lora" and "full"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A whole job."""

    model: str = ""
    out: str = ""
    """The job's directory; a run that was cut resumes from it."""
    method: Literal["lora", "full", "shared-seed"] = "lora"
    objective: Literal["likelihood", "dpo"] = "likelihood"
    """What is learned: completions as they are, or with method "lora" preferences among two
    answers, by direct preference optimization."""
    seed: NotNegative = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the layers' products; trained weights and sums are float32 in any case."""
    base_precision: Literal["float32", "bfloat16", "int8", "int4"] = "float32"
    """With method "lora", how the frozen weights of the base are held; int8 and int4 are the codes
    that generation uses."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What to do at a step whose loss or gradient is not finite: stop the job, or skip the step."""
    on_divergence: Literal["warn", "stop"] = "warn"
    """What to do when the loss stays far above its start: say so, or also stop the job."""
    gradient_checkpointing: bool = False
    """Keep only the layers' inputs and compute the rest again: less memory, a third more work."""
    eval_every: Positive = 50
    """Steps between two evaluations."""
    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    dpo: DpoConfig = field(default_factory=DpoConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    early_stop: EarlyStopConfig = field(default_factory=EarlyStopConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    shared_seed: SharedSeedConfig = field(default_factory=SharedSeedConfig)

    def for_samples(self, num_samples: int) -> "TrainConfig":
        """Return the job with its steps, where it names epochs of so many samples."""
        settings = self.optimizer
        if settings.epochs is None:
            return self
        steps = max(1, math.ceil(settings.epochs * num_samples / settings.batch))
        return replace(self, optimizer=replace(settings, steps=steps, epochs=None))

    @property
    def prefers(self) -> bool:
        """Whether the job learns preferences."""
        return self.objective == "dpo"

    @property
    def num_eval(self) -> int | None:
        """Records to evaluate on; None is all."""
        return self.data.eval_limit or self.data.limit

    @property
    def num_chunks(self) -> int:
        """Chunks of a step."""
        num_microbatches = -(-self.optimizer.batch // self.optimizer.microbatch)
        if self._queue_scheme is not None:
            return self._queue_scheme.num_chunks(self.workers.count, num_microbatches)
        scheme = self.round_scheme
        return num_microbatches if scheme is None else len(scheme.chunk_sizes)

    def queue_schedule(self, num_workers: int, times: ChunkTimes) -> QueueSchedule:
        """Return the schedule of one step's chunks, where these are handed out one at a time.

        Raises:
            ConfigError: the scheme cannot serve so many workers.
        """
        queue = self._queue_scheme
        assert queue is not None
        workers = self.workers
        shape = QueueShape(num_workers=num_workers, num_chunks=self.num_chunks, group=workers.group)
        try:
            return queue.make(shape, times)
        except ValueError as error:
            raise ConfigError(f"`workers.group` is {workers.group}: {error}") from error

    @property
    def is_queued(self) -> bool:
        """Whether the scheme hands chunks out one at a time."""
        return self._queue_scheme is not None

    @property
    def _queue_scheme(self) -> QueueScheme | None:
        return QUEUE_SCHEMES.get(self.workers.scheme)

    @property
    def round_scheme(self) -> Scheme | None:
        """The scheme that works in rounds; None for a queue scheme, and for "auto".

        Raises:
            ConfigError: there is no such scheme, or not for so many workers.
        """
        name = self.workers.scheme
        if name in (*QUEUE_SCHEMES, AUTO):
            return None
        try:
            scheme = round_scheme(name, self.workers.count)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"`workers.scheme` is {name!r}: {error}") from error
        if scheme is None:
            known = f"{', '.join(QUEUE_SCHEMES)}, {AUTO}, {ROUND_FORMS}"
            raise ConfigError(f"`workers.scheme` is {name!r}: choose one of {known}")
        return scheme

    @property
    def num_trials(self) -> int:
        """Models that train in turn."""
        scheme = self.round_scheme
        return 1 if scheme is None else scheme.delay + 1

    def trial(self, number: int) -> "TrainConfig":
        """Return the job of one of several models: its own seed and directory."""
        if self.num_trials == 1:
            return self
        out = str(Path(self.out) / f"trial-{number}")
        return replace(self, seed=self.seed + number, out=out)

    def learning_part(self) -> dict[str, object]:
        """Return what determines the result: a run may resume only where all of it is the same."""
        whole = asdict(self)
        for name in (
            "out",
            "workers",
            "faults",
            "checkpoint",
            "watch",
            "eval_every",
            "early_stop",
            "on_nonfinite",
            "on_divergence",
        ):
            del whole[name]
        del whole["gradient_checkpointing"], whole["data"]["eval"], whole["data"]["eval_limit"]
        del whole["optimizer"]["epochs"]  # they are counted as steps
        if self.base_precision == "float32":
            del whole["base_precision"]  # older jobs do not have the key
        if not self.prefers:
            del whole["objective"], whole["dpo"]  # older jobs do not have the keys
        for name, default in (("cycles", 1), ("no_decay", [])):
            if whole["optimizer"][name] == default:
                del whole["optimizer"][name]  # older jobs do not have the key
        if not self.data.rejected:
            del whole["data"]["rejected"]  # older jobs do not have the key
        if not self.data.mix:
            del whole["data"]["mix"]  # older jobs do not have the key
        if self.data.buffer is None:
            del whole["data"]["buffer"]  # older jobs do not have the key
        if self.data.learn == "last":
            del whole["data"]["learn"]  # older jobs do not have the key
        whole["data"]["limit"] = self.data.limit or 0  # as older jobs write it, which may resume
        if self.data.batching == "padded" or self.method == SHARED_SEED:
            del whole["data"]["batching"]  # what older jobs did, and shared-seed jobs do
        del whole["lora"]["start"]  # the first values count, wherever they are
        for name in ("rank_stabilized", "dora", "rank_pattern", "alpha_pattern"):
            if not whole["lora"][name]:
                del whole["lora"][name]  # older jobs do not have it
        if not self.data.among_choices:
            del whole["data"]["among_choices"]  # older jobs do not have the key, and may resume
        if self.method != SHARED_SEED:
            del whole["shared_seed"]
            return whole | self._coding_part()
        for name in RUNNING:
            del whole["shared_seed"][name]
        return whole

    def _coding_part(self) -> dict[str, object]:
        scheme = self.round_scheme
        whole: dict[str, object] = {"num_chunks": self.num_chunks}
        if self.workers.scheme == AUTO or (scheme is not None and not scheme.is_exact):
            whole["scheme"] = self.workers.scheme
        return whole
