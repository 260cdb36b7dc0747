"""The [shared_seed] section of a job: what workers do, how rounds close, who may take part."""

from dataclasses import dataclass
from typing import Annotated, Literal

from parallel.training.shared_seed.directions import MAX_SAMPLES
from runtime.checking.tables import Range
from runtime.checking.values import whole_number
from runtime.errors import ConfigError
from runtime.training.job.ranges import AboveZero, NotNegativeNumber, ShareBelowOne

WEIGHTS = ("lora", "linear")
RUNNING = (
    "rows", "quorum", "deadline_s", "alive_s", "snapshot_every", "listen", "token_file",
    "tls_cert", "tls_key", "client_ca",
)  # fmt: skip
"""Keys that may change where a run continues."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSeedConfig:
    """Training with forward passes and one byte a direction, with method "shared-seed"."""

    directions: Annotated[int, Range(least=1, most=MAX_SAMPLES - 1)] = 4
    """Of a worker in a round; a byte each."""
    eps: AboveZero = 1e-2
    """How far from the weights losses are taken, along signs of +1 and -1."""
    sides: Annotated[int, Range(least=1, most=2)] = 2
    """2: differences of both sides, a batch for each direction (MeZO). 1: from the weights to one
    side, one batch for all of a round's directions, half the work (FZOO)."""
    normalise: bool = True
    """Divide steps by the scalars' root mean square: optimizer.lr is then how far weights go."""
    steady_scalars: NotNegativeNumber = 0.0
    """With n scalars in a round the rate is lr n / (n + this): few workers make short steps."""
    momentum: ShareBelowOne = 0.0
    pool: Annotated[int, Range(least=0, most=MAX_SAMPLES)] = 0
    """Choose directions among so many (FedKSeed): who joins then needs 8 bytes for each, however
    long the run is. 0 draws new ones forever."""
    weights: Literal["lora", "linear"] = "lora"
    """What learns: lora, or linear: the linear layers' own weights along low-rank directions."""
    direction_rank: Annotated[int, Range(least=1, most=256)] = 1
    """Of directions of linear weights."""
    rows: Annotated[int, Range(least=1, most=1 << 16)] = 64
    """Sequences in one forward: several directions share it where they are small."""
    reward: str = ""
    """What judges answers, in place of the loss: module:function of prompt and answer, or
    grpc://HOST:PORT of a ScoringService. Completions then do not matter."""
    max_answer: Annotated[int, Range(least=1, most=1 << 16)] = 32
    """Longest judged answer, in tokens."""
    quorum: Annotated[int, Range(least=1, most=MAX_SAMPLES)] = 1
    """Workers without whom a round is not closed."""
    deadline_s: AboveZero = 30.0
    """A round with its quorum ends after so long, and after 1 + workers.patience times what half
    of the workers took."""
    alive_s: AboveZero = 60.0
    """A worker that brought nothing for so long is not waited for."""
    late_rounds: Annotated[int, Range(least=0, most=16)] = 1
    """Bytes that are so many rounds late count still."""
    max_directions: Annotated[int, Range(least=1, most=MAX_SAMPLES - 1)] = 64
    """Of any worker in a round: more are refused."""
    trim: AboveZero = 2.0
    """Scalars are cut to e to this times the round's median size."""
    hash_every: Annotated[int, Range(least=1, most=1 << 20)] = 10
    """Rounds between two comparisons of the replicas."""
    snapshot_every: Annotated[int, Range(least=1, most=1 << 20)] = 100
    """Rounds between two snapshots for those who join."""
    listen: str = "127.0.0.1:0"
    """Where workers outside the cluster find the run, HOST:PORT; port 0 takes a free one."""
    token_file: str = ""
    """Bearer tokens, one a line and worker: each is one machine at a time."""
    tls_cert: str = ""
    tls_key: str = ""
    client_ca: str = ""
    """Workers need a certificate of this authority."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a worker has to do, wherever it is."""

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
        """Raise InvalidValue for what no run asks of a worker: terms come from a peer."""
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
