"""The value types of decoding that hold no tensor: sampling parameters, draft trees, verdicts."""

from dataclasses import dataclass, fields
from enum import StrEnum


class DecodeMode(StrEnum):
    """How draft and verification of one request are arranged."""

    AUTOREGRESSIVE = "autoregressive"
    """No drafts: one token a target forward."""
    SPECULATIVE = "speculative"
    """Draft, then verify (Leviathan et al., arXiv 2211.17192)."""
    PEARL = "pearl"
    """Draft while verifying (PEARL, arXiv 2408.11850)."""
    OUTCOMES = "outcomes"
    """Draft for many possible verdicts while verifying (an outcome cache, arXiv 2603.03251)."""
    AUTO = "auto"
    """Whichever of these the leader finds to be the fastest for the request."""


class VerifierKind(StrEnum):
    """The acceptance rule; both keep the target's distribution exactly."""

    MATCH = "match"
    """Sample the target's token and compare: output depends only on target and seed."""
    REJECTION = "rejection"
    """Accept with probability min(1, p/q): accepts most, output depends on the drafts too."""


class NodeKind(StrEnum):
    """How a draft node was drawn, which decides the acceptance rule that is exact for it."""

    POINT = "point"
    """Chosen by a rule that is not a draw the verifier has to know (a point mass)."""
    IID = "iid"
    """Drawn from `draft_probs`, independently of its siblings."""


class ConstraintKind(StrEnum):
    """What the text of a constraint is written in."""

    JSON_SCHEMA = "json_schema"
    """A JSON schema, which the output conforms to."""
    JSON_OBJECT = "json_object"
    """No text: the output is any JSON object."""
    REGEX = "regex"
    """A regular expression, which the whole output matches."""
    GRAMMAR = "grammar"
    """A Lark grammar, whose rule `start` derives the output."""
    CHOICE = "choice"
    """The output is one of some texts."""
    MONITOR = "monitor"
    """A program of the server's operator, as module:function, that names words that may follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintSpec:
    """A constraint as a request states it; the process that decides compiles it."""

    kind: ConstraintKind
    text: str = ""
    """The schema, the regular expression, the grammar, or the name of the monitor."""
    choices: tuple[str, ...] = ()
    """The texts of a choice."""
    align: bool = False
    """Whether samples follow the model's own distribution given that the output is legal."""
    close: bool = False
    """Whether the output is completed within its most tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """What turns logits into the distribution a request samples from.

    Applied in the order constraint, logit bias, held-back ends, penalties, temperature, top-k,
    top-p, min-p, as transformers does.
    """

    temperature: float = 0.0
    """0 is greedy; else between 1e-4 and 1e4."""
    top_k: int = 0
    """Keep the k best tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of best tokens with at least this mass."""
    min_p: float = 0.0
    """Keep tokens with at least this share of the best token's probability."""
    repetition_penalty: float = 1.0
    """Divide (positive) or multiply (negative) the logits of tokens already seen; 1 is off."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens that the output has; between -2 and 2."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for each time that the output has it; between -2 and 2."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Tokens, ascending, with what is added to their logits, between -100 and 100."""
    min_tokens: int = 0
    """No token of `end_ids` is drawn before the output has this many tokens."""
    end_ids: tuple[int, ...] = ()
    """The tokens that end the output, which the engine fills in where `min_tokens` or a constraint
    needs them."""
    constraint: ConstraintSpec | None = None
    """What the output must satisfy: tokens that break it have no probability."""
    seed: int = 0
    """Key of the request's random numbers, 0 <= seed < 2**64."""

    def __post_init__(self) -> None:
        """Reject values outside their range, naming the value."""
        _require(
            self.temperature == 0 or 1e-4 <= self.temperature <= 1e4,
            "temperature",
            self.temperature,
            "0 (greedy) or between 0.0001 and 10000",
        )
        _require(self.top_k >= 0, "top_k", self.top_k, "at least 0 (0 keeps all tokens)")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1")
        _require(
            0.01 <= self.repetition_penalty <= 100,
            "repetition_penalty",
            self.repetition_penalty,
            "between 0.01 and 100",
        )
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _require(-2 <= value <= 2, name, value, "between -2 and 2")
        for token, bias in self.logit_bias:
            _require(-100 <= bias <= 100, f"logit_bias[{token}]", bias, "between -100 and 100")
        _require(self.min_tokens >= 0, "min_tokens", self.min_tokens, "at least 0")
        _require(0 <= self.seed < 2**64, "seed", self.seed, "between 0 and 2**64 - 1")
        if self.constraint is not None and self.constraint.align:
            self._check_aligned()

    def _check_aligned(self) -> None:
        """Reject what an aligned sample cannot have: its distribution is the model's own."""
        if self.is_greedy:
            raise ValueError("`align` is about samples: set `temperature` above 0")
        for field in fields(self):
            if field.name in _NOT_ALIGNED and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"`align` follows the model's own distribution, which `{field.name}` changes: "
                    "leave out one of them"
                )

    @property
    def reads_history(self) -> bool:
        """Whether the tokens before a position decide about the next one."""
        penalizes = self.presence_penalty != 0 or self.frequency_penalty != 0
        return penalizes or self.repetition_penalty != 1

    @property
    def shapes_logits(self) -> bool:
        """Whether anything comes before temperature, and needs the whole vocabulary."""
        is_bound = self.constraint is not None or self.min_tokens > 0
        return self.reads_history or bool(self.logit_bias) or is_bound

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature == 0


_NOT_ALIGNED = (
    *("top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("logit_bias", "min_tokens"),
)


def _require(holds: bool, name: str, value: float, wanted: str) -> None:
    if not holds:
        raise ValueError(f"`{name}` is {value}: it must be {wanted}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RngKey:
    """Names one request's stream of random numbers; same key, same numbers."""

    seed: int
    """The user's seed."""
    request: int
    """64 bits drawn from the prompt and the sample index, never from arrival order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseProbs:
    """A distribution given on the tokens it can draw; all other tokens have probability 0."""

    ids: tuple[int, ...]
    probs: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftTree:
    """Draft tokens as a forest under the last committed token; a chain has one child a node.

    Nodes are in topological order: a parent's index is below its children's. Siblings are in the
    order in which they were drawn.
    """

    token_ids: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    """Index of each node's parent; -1 is the last committed token."""
    kinds: tuple[NodeKind, ...] = ()
    draft_probs: tuple[SparseProbs | None, ...] = ()
    """The distribution that each node was drawn from; None for POINT nodes."""

    def __post_init__(self) -> None:
        """Reject trees whose columns disagree."""
        if not len(self.token_ids) == len(self.parents) == len(self.kinds) == len(self.draft_probs):
            raise ValueError(
                "a draft tree needs a parent, a kind and draft probabilities for every token"
            )
        if any(not -1 <= parent < node for node, parent in enumerate(self.parents)):
            raise ValueError(f"parents {self.parents} are not in topological order")

    def __len__(self) -> int:
        """Return the number of nodes."""
        return len(self.token_ids)

    @property
    def is_chain(self) -> bool:
        """Whether each node is the only child of the one before."""
        return self.parents == tuple(range(-1, len(self.parents) - 1))

    def first(self, num: int) -> "DraftTree":
        """Return the tree of the first `num` nodes, or all if it has fewer."""
        return self._slice(slice(num))

    def without_first(self, num: int) -> "DraftTree":
        """Return the chain that remains once the first `num` nodes of one are committed."""
        assert self.is_chain
        return self._slice(slice(num, None))

    @property
    def trunk(self) -> "DraftTree":
        """The chain of its first nodes, up to the first that does not follow the one before."""
        length = 0
        while length < len(self) and self.parents[length] == length - 1:
            length += 1
        return self.first(length)

    def followed_by(self, other: "DraftTree") -> "DraftTree":
        """Return the chain of this chain's nodes and then the other's."""
        return DraftTree(
            token_ids=self.token_ids + other.token_ids,
            parents=tuple(range(-1, len(self) + len(other) - 1)),
            kinds=self.kinds + other.kinds,
            draft_probs=self.draft_probs + other.draft_probs,
        )

    def _slice(self, kept: slice) -> "DraftTree":
        token_ids = self.token_ids[kept]
        return DraftTree(
            token_ids=token_ids,
            parents=self.parents[: len(token_ids)],
            kinds=self.kinds[kept],
            draft_probs=self.draft_probs[kept],
        )

    @classmethod
    def chain(
        cls, token_ids: tuple[int, ...], draft_probs: tuple[SparseProbs, ...] = ()
    ) -> "DraftTree":
        """Make a chain: IID nodes if their draft probabilities are given, else POINT nodes."""
        num = len(token_ids)
        return cls(
            token_ids=token_ids,
            parents=tuple(range(-1, num - 1)),
            kinds=(NodeKind.IID if draft_probs else NodeKind.POINT,) * num,
            draft_probs=draft_probs or (None,) * num,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """A token's probability at the target, before sampling parameters apply, and the likeliest."""

    logprob: float
    """Natural logarithm of the output token's probability."""
    top_ids: tuple[int, ...] = ()
    """The likeliest tokens, best first."""
    top_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What verification decided about drafts."""

    num_accepted: int
    """Draft tokens that are kept: a chain's first ones, or a path of a tree from its root."""
    next_token: int | None
    """The recovered token after a rejection, the bonus token after none; None when all drafts were
    accepted and no scored position is left."""
    accepted_nodes: tuple[int, ...] = ()
    """Indices of the kept nodes in the draft tree, root first; filled in by the verifiers."""
