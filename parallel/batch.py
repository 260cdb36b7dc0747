"""One ragged forward: rows of different sequences and lengths in a single call."""

from collections.abc import Sequence
from dataclasses import dataclass

from parallel.decoding.types import RngKey


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDraw:
    """How the tokens after a sequence's scored rows are drawn: by temperature and noise alone."""

    key: RngKey
    position: int
    """Index in the output of the token that the first scored row decides."""
    temperature: float = 0.0
    """0 takes the best token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRows:
    """Consecutive new tokens of one sequence.

    The cache of the sequence is truncated to `start` before the tokens are appended, so a rollback
    needs no call of its own.
    """

    slot: int
    """The number under which the KV cache holds the sequence."""
    start: int
    """Position of the first token; cached tokens from here on are dropped."""
    token_ids: tuple[int, ...]
    num_logits: int
    """Logits are computed for the last `num_logits` of the tokens."""
    parents: tuple[int, ...] = ()
    """The last `len(parents)` tokens are a draft tree: this is each node's parent, and -1 is the
    token before the tree. A node's position follows from its depth, and it attends only to its
    ancestors (tree attention, SpecInfer, arXiv 2305.09781, section 4). Its first nodes may be in
    the cache already, so that a tree can grow forward by forward. Empty: a chain."""
    moves: tuple[int, ...] = ()
    """Increasing cache positions whose tokens are first moved to just before `start`: the accepted
    path of a tree."""
    adapter: str = ""
    """Name of the adapter that computes the tokens; empty is the model alone. A sequence keeps its
    adapter, because its keys and values depend on it."""
    draw: TokenDraw | None = None
    """How tokens are drawn from the logits, where they are, if the device can: then the tokens are
    all that is wanted of the logits. None: the scores are wanted."""

    def __post_init__(self) -> None:
        """Reject empty rows, and logits or trees of more tokens than there are."""
        if not self.token_ids or not 0 <= self.num_logits <= len(self.token_ids) or self.start < 0:
            raise ValueError(f"rows of slot {self.slot} are empty or request too many logits")
        if len(self.parents) >= max(1, self.start + len(self.token_ids)) or any(
            not -1 <= parent < node for node, parent in enumerate(self.parents)
        ):
            raise ValueError(f"rows of slot {self.slot} do not form a tree: parents {self.parents}")

    @property
    def positions(self) -> list[int]:
        """The position of each token."""
        return self.all_positions[self.start :]

    @property
    def all_positions(self) -> list[int]:
        """The position of each token, the cached ones included."""
        first = self.start + len(self.token_ids) - len(self.parents)
        return [*range(first), *(first - 1 + depth for depth in depths(self.parents))]


def path_to(parents: Sequence[int], node: int) -> list[int]:
    """Return the nodes on the path from the root's child to `node`."""
    path: list[int] = []
    while node >= 0:
        path.append(node)
        node = parents[node]
    return path[::-1]


def depths(parents: Sequence[int]) -> list[int]:
    """Return the depth of each node of a tree; children of the root have depth 1."""
    found: list[int] = []
    for parent in parents:
        found.append(1 if parent < 0 else found[parent] + 1)
    return found
