"""A training job's configuration: one TOML file, every value checked before anything starts."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from parallel.training.gradient_coding.names import ROUND_FORMS, round_scheme
from parallel.training.gradient_coding.queue_schedules import (
    QUEUE_SCHEMES,
    ChunkTimes,
    QueueSchedule,
    QueueScheme,
    QueueShape,
)
from parallel.training.gradient_coding.schemes import Scheme
from runtime.errors import ConfigError
from runtime.training.job.shared_seed_settings import RUNNING, SharedSeedConfig

SCHEDULES = ("constant", "linear", "cosine")
AUTO = "auto"
SHARED_SEED = "shared-seed"
METHODS = ("lora", "full", SHARED_SEED)
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What is learnt from."""

    train: str = ""
    """A .jsonl file: text, prompt and completion, or messages; or any fields, with `prompt` and
    `completion` below."""
    eval: str = ""
    """Another one, to be measured on; empty measures nothing."""
    prompt: str = ""
    """How a prompt is made from a record's fields, as "Review: {text}"."""
    completion: str = ""
    """How a completion is made, as " {answer}"."""
    words: dict[str, list[str]] = field(default_factory=dict)
    """Words for the numbers of a field, as label = ["bad", "good"]; these are then the choices."""
    among_choices: bool = False
    """Learn to tell the choices apart, not to write them: the loss is among them alone. Each has to
    be one token."""
    max_length: int = 256
    """Longer samples lose their end, in tokens."""
    limit: int = 0
    """Take only the first records; 0 takes all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Which weights learn, with method "lora" (Hu et al., arXiv 2106.09685)."""

    rank: int = 8
    alpha: float = 16.0
    targets: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    dropout: float = 0.0
    """Share of a layer's inputs that the update does not see in training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW."""

    steps: int = 100
    batch: int = 16
    """Samples of a step."""
    microbatch: int = 4
    """Samples of a chunk, which one worker works on at a time: gradients of a step's chunks add up,
    so a batch needs no more memory than a chunk."""
    lr: float = 1e-3
    warmup: float = 0.03
    """Share of the steps in which the rate rises."""
    schedule: str = "cosine"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 1.0
    """Largest norm of a step's gradient; 0 does not clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersConfig:
    """Who computes."""

    count: int = 2
    """As many as work when there is room for them; they join and leave while the job runs."""
    min: int = 0
    """With so many the job starts; 0 waits for all."""
    cpus: float = 0.0
    """Cores that Ray sets aside for each; 0 shares what is there."""
    gpus: float = 0.0
    """GPUs that Ray sets aside for each; above 0 they compute there."""
    scheme: str = "pull"
    """pull, frc-stream, auto, or one that works in rounds: uncoded, frc-S, class-S, cyclic-S,
    roots-S, drop-K, sr-sgc-B-W-L, m-sgc-B-W-L; without numbers it is for one straggler."""
    patience: float = 1.0
    """In rounds, a worker is late after 1 + patience times what the fastest ones take."""
    profile: int = 8
    """Rounds that "auto" looks at before it chooses."""
    group: int = 2
    """Workers that share their chunks, with scheme "frc-stream"."""
    threads: int = 1
    lost_after_s: float = 60.0
    """A worker that has not brought a chunk for so long is replaced."""
    empty_after_s: float = 60.0
    """In rounds, a place where nobody has come back for so long is planned without."""
    max_losses: int = 20
    """Workers that may be replaced before the job gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultsConfig:
    """Faults to put in, for experiments."""

    slow: float = 0.0
    """Share of the chunks that a worker is slow with."""
    factor: float = 10.0
    """How many times as long a slow chunk takes."""
    hang: float = 0.0
    """Share of the chunks at which a worker hangs for ever."""
    kill: float = 0.0
    """Share of the chunks, or rounds, at which a worker's process ends."""
    lose: float = 0.0
    """Share of a shared-seed worker's messages, and of answers, that are lost."""
    repeat: float = 0.0
    """Share of them that come twice."""
    delay_s: float = 0.0
    """Between a worker and the rounds, there and back."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """What is kept on disk."""

    every: int = 50
    """Steps between two adapters."""
    keep: int = 0
    """Adapters of steps that stay, the last ones; 0 keeps all."""
    state_every: int = 1
    """Steps between two states that a cut run goes on from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A whole job."""

    model: str = ""
    out: str = ""
    """The job's directory; a run that was cut goes on from it."""
    method: str = "lora"
    seed: int = 0
    precision: str = "float32"
    """Of the layers' products; weights that learn, and sums, are float32 in any case."""
    gradient_checkpointing: bool = False
    """Keep only the layers' inputs and compute the rest again: less memory, a third more work."""
    eval_every: int = 50
    """Steps between two evaluations."""
    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    shared_seed: SharedSeedConfig = field(default_factory=SharedSeedConfig)

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
            raise ConfigError(f"workers.scheme is {name!r}: {error}") from error
        if scheme is None:
            known = f"{', '.join(QUEUE_SCHEMES)}, {AUTO}, {ROUND_FORMS}"
            raise ConfigError(f"workers.scheme is {name!r}: choose one of {known}")
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
        """Return what determines the result: a run may only go on where all of it is the same."""
        whole = asdict(self)
        for name in ("out", "workers", "faults", "checkpoint", "eval_every"):
            del whole[name]
        del whole["gradient_checkpointing"], whole["data"]["eval"]
        if not self.data.among_choices:
            del whole["data"]["among_choices"]  # jobs of before it was there go on
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
