"""The [shared_seed] section of a job: the workers' task, closing rounds, access."""

from dataclasses import dataclass
from typing import Annotated, Literal

from parallel.training.shared_seed.numbering import MAX_SAMPLES
from runtime.checking.tables import Range
from runtime.checking.values import whole_number
from runtime.errors import ConfigError
from runtime.training.job.ranges import AboveZero, NotNegativeNumber, ShareBelowOne

WEIGHTS = ("lora", "linear")
RUNNING = (
    "rows", "quorum", "deadline_s", "alive_s", "snapshot_every", "listen", "token_file",
    "tls_cert", "tls_key", "client_ca",
)  # fmt: skip
"""Keys that may change when a run is resumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSeedConfig:
    """Training with forward passes and one byte for each direction (method "shared-seed")."""

    directions: Annotated[int, Range(least=1, most=MAX_SAMPLES - 1)] = 4
    """Directions of a worker in a round; one byte each."""
    eps: AboveZero = 1e-2
    """Distance from the weights at which losses are evaluated, along signs of +1 and -1."""
    sides: Annotated[int, Range(least=1, most=2)] = 2
    """2: difference of both sides, one batch for each direction (MeZO). 1: from the weights to one
    side, one batch for all directions of a round, half the work (FZOO)."""
    normalise: bool = True
    """Divide steps by the scalars' root mean square, so that optimizer.lr is their length."""
    steady_scalars: NotNegativeNumber = 0.0
    """With n scalars in a round the rate is lr n / (n + steady_scalars)."""
    momentum: ShareBelowOne = 0.0
    pool: Annotated[int, Range(least=0, most=MAX_SAMPLES)] = 0
    """Draw directions from a pool of this size (FedKSeed): a machine that joins needs 8 bytes for
    each, however long the run is. 0 draws new directions in every round."""
    weights: Literal["lora", "linear"] = "lora"
    """Trained weights: lora, or linear for the linear layers' own along low-rank directions."""
    direction_rank: Annotated[int, Range(least=1, most=256)] = 1
    """Rank of the directions of linear weights."""
    rows: Annotated[int, Range(least=1, most=1 << 16)] = 64
    """Sequences in one forward pass; several small directions share it."""
    reward: str = ""
    """Scorer of answers, in place of the loss: module:function of prompt and answer, or
    grpc://HOST:PORT of a ScoringService. Completions are then ignored."""
    max_answer: Annotated[int, Range(least=1, most=1 << 16)] = 32
    """Longest scored answer, in tokens."""
    quorum: Annotated[int, Range(least=1, most=MAX_SAMPLES)] = 1
    """Workers that a round needs before it closes."""
    deadline_s: AboveZero = 30.0
    """A round with its quorum ends after so long, or after 1 + workers.patience times the time of
    the faster half of the workers."""
    alive_s: AboveZero = 60.0
    """A worker that sent nothing for so long is not waited for."""
    late_rounds: Annotated[int, Range(least=0, most=16)] = 1
    """Rounds that bytes may be late and still count."""
    max_directions: Annotated[int, Range(least=1, most=MAX_SAMPLES - 1)] = 64
    """Directions that a worker may send in a round."""
    trim: AboveZero = 2.0
    """Scalars are clipped to exp(trim) times the round's median size."""
    hash_every: Annotated[int, Range(least=1, most=1 << 20)] = 10
    """Rounds between two comparisons of the replicas."""
    snapshot_every: Annotated[int, Range(least=1, most=1 << 20)] = 100
    """Rounds between two snapshots, from which machines join."""
    listen: str = "127.0.0.1:0"
    """HOST:PORT for workers outside the cluster; port 0 takes a free one."""
    token_file: str = ""
    """File of bearer tokens, one a line for each worker; a token is one machine at a time."""
    tls_cert: str = ""
    tls_key: str = ""
    client_ca: str = ""
    """Authority of the certificates that workers must present."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A worker's task, inside and outside the cluster."""

    directions: int
    sides: int
    rows: int
    batch: int
    """Samples of a direction."""
    by_reward: bool = False
    max_answer: int = 32
    max_length: int = 256
    prompt: str = ""
    completion: str = ""
    words: dict[str, list[str]]
    among_choices: bool = False

    def __post_init__(self) -> None:
        """Raise InvalidValue for impossible values: terms come from a peer."""
        counts = (
            ("directions", self.directions, 1, MAX_SAMPLES - 1),
            ("sides", self.sides, 1, 2),
            ("rows", self.rows, 1, 1 << 16),
            ("batch", self.batch, 1, 1 << 20),
            ("max_answer", self.max_answer, 1, 1 << 16),
            ("max_length", self.max_length, 2, 1 << 24),
        )
        for name, value, least, most in counts:
            whole_number(value, name, minimum=least, maximum=most)


def check_shared_seed(section: SharedSeedConfig, *, decays: bool = False) -> None:
    """Raise ConfigError for values that do not fit together.

    Raises:
        ConfigError: names the keys.
    """
    if section.max_directions < section.directions:
        raise ConfigError(
            f"`shared_seed.max_directions` is {section.max_directions}: it must be at least "
            f"`shared_seed.directions`, {section.directions}"
        )
    if section.pool and (section.momentum or decays):
        raise ConfigError(
            "`shared_seed.pool` works with neither `shared_seed.momentum` nor "
            "`optimizer.weight_decay`"
        )
    if section.pool and section.weights != "lora":
        raise ConfigError('`shared_seed.pool` is for adapters: set `shared_seed.weights` to "lora"')
    if section.tls_key and not section.tls_cert:
        raise ConfigError("`shared_seed.tls_key` needs `shared_seed.tls_cert`")
