"""The values that cross a link: between driver and leader, and between leader and drafter.

`runtime/links/codec.py` translates them to and from `protos/paceline/v1/link.proto`.
"""

from dataclasses import dataclass, field

from parallel.decoding.ahead_counts import AheadCounts
from parallel.decoding.token_source import TokenSource, token_sources
from parallel.decoding.types import (
    DecodeMode,
    RngKey,
    SamplingParams,
    SparseProbs,
    TokenLogprobs,
    VerifierKind,
)
from parallel.decoding.verdict_outcomes import OutcomeDraft

VERSION_MARK = "@"
"""Between the name of an adapter and the digest of its numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First message of the side that connects."""

    role: str
    """"driver" or "drafter"."""
    name: str
    vocab_size: int | None = None
    """Token ids a drafter can read: those below; None: it names no limit, or is a driver."""
    capacity: int = 0
    """Sequences a drafter can hold at once; 0 for a driver."""
    num_successors: int = 0
    """Best tokens that a drafter receives for each position the target scored; 0 is none."""
    grows_trees: bool = False
    """Whether the drafter proposes trees, with the probability that each token is kept."""
    step_s: tuple[float, ...] = ()
    """Seconds a draft step is predicted to take with layers 1, 2, ... at a time; may be empty."""
    width: int | None = None
    """Layers at a time that its user fixed; None leaves it to the leader, among those of step_s."""
    max_positions: int | None = None
    """Longest text a drafter can read, in tokens; None: it names no limit."""
    joins: bool = False
    """Whether a drafter joins those that are attached; otherwise it replaces them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftOpen:
    """Introduces a request to a drafter, before its first draft."""

    request: int
    key: RngKey
    sampling: SamplingParams
    num_prompt: int
    """Length of the prompt: output positions, which key the noise, count from here."""
    capacity: int
    """Tokens the request can grow to, drafts included."""
    send_probs: bool
    """Whether the verifier needs the probabilities that each draft token was drawn from."""
    vocab_size: int | None = None
    """Tokens the target knows; a drafter that knows more draws no others. None: unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftItem:
    """Ask for a draft of one request after its first `keep` known tokens and `tail`."""

    request: int
    epoch: int
    """Grows whenever earlier drafts of the request became void."""
    keep: int
    """Tokens the drafter holds that stay valid."""
    tail: tuple[int, ...]
    """Tokens that follow them; the draft starts after the last one, at base = keep + len(tail)."""
    num_draft: int
    """Draft tokens wanted; 0 only brings the drafter's cache up to date."""
    tree: bool = False
    """Whether the draft may be a tree of points: alternatives too, `num_draft` tokens in all."""
    min_gain: float = 0.0
    """Of a tree: after tokens less likely kept than this, a model's step is not worth its time."""
    stream: bool = False
    """Send the first token at once, the others when all are there."""
    scored: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    """What the target scored last: one or two tokens before a place, and the best ones there."""
    num_in_flight: int = 0
    """How many of the last tokens before the draft are drafts that no verdict has reached."""
    num_outcomes: int = 0
    """Outcomes of the verdict on them to draft for, token by token; the draft after all of them is
    one. 0: that draft alone."""
    outcome_part: int = 0
    num_outcome_parts: int = 1
    """Of several drafters that share the outcomes, likeliest first, this one takes number
    `outcome_part` and every `num_outcome_parts`-th after it; 0 is the draft after all in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftRequest:
    """One round's work for the drafter."""

    round: int
    opened: tuple[DraftOpen, ...] = ()
    items: tuple[DraftItem, ...] = ()
    closed: tuple[int, ...] = ()
    """Requests whose cache the drafter frees."""
    width: int | None = None
    """Layers of the drafter whose attention runs at once; None where it has no such choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalItem:
    """The draft of one request."""

    request: int
    epoch: int
    base: int
    """Number of tokens before the first of `token_ids`."""
    token_ids: tuple[int, ...]
    draft_probs: tuple[SparseProbs, ...] = ()
    """What each token was drawn from; empty when they are POINT drafts."""
    parents: tuple[int, ...] = ()
    """Of a tree: index of the token that each follows, -1 for the base; empty for a chain. The
    drafter does not hold a tree that it proposed."""
    gains: tuple[float, ...] = ()
    """The drafter's estimate that each token is kept, falling; empty where it has none."""
    outcomes: tuple[OutcomeDraft, ...] = ()
    """Drafts after other outcomes of the verdict on what is in flight, or later parts of them. The
    drafter does not hold them."""
    unknown: bool = False
    """The drafter holds fewer than `keep` tokens of this request: send it from the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The drafter's answer to one DraftRequest, or the first part of it."""

    round: int
    items: tuple[ProposalItem, ...]
    draft_s: float
    """Seconds the drafter worked on it so far."""
    partial: bool = False
    """Whether another part follows."""
    num_steps: int = 0
    """Draft steps it took, one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """A request for generation, from driver to leader."""

    request: int
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    mode: DecodeMode
    verifier: VerifierKind
    max_tokens: int
    draft_length: int | None = None
    """Draft tokens a round; None leaves it to the controller."""
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    """Strings that end the output; the text stops before them."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the output, in addition to the model's end tokens."""
    num_logprobs: int | None = None
    """How many of each position's likeliest tokens to report in addition to the output token, with
    their log probabilities; None reports none."""
    sample_index: int = 0
    """Tells apart several samples of one prompt with one seed."""
    priority: int = 0
    """Higher is served first."""
    client: str = ""
    """Who asks: clients share fairly."""
    timeout_s: float | None = None
    """Time from now on after which the output is of no use; None is without end."""
    output_ids: tuple[int, ...] = ()
    """Tokens of the output that are final already, from an engine that was lost: this one continues
    after them, and commits none of them again."""
    adapter: str = ""
    """Version of the adapter that computes the output: its name, `VERSION_MARK`, and the digest of
    its numbers; "" is the model alone."""

    @property
    def adapter_name(self) -> str:
        """The adapter's name without its version."""
        return self.adapter.partition(VERSION_MARK)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """End a request early."""

    request: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """Tokens that are final, in order."""

    request: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token, or none."""
    num_accepted: int = 0
    """How many of them are draft tokens: the first ones. At most one token follows them."""
    is_recovered: bool = False
    """Whether the last token replaces a rejected draft token."""

    @property
    def sources(self) -> tuple[TokenSource, ...]:
        """How each token came about."""
        return token_sources(len(self.token_ids), self.num_accepted, is_recovered=self.is_recovered)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStats(AheadCounts):
    """What one request cost and what speculation did for it."""

    rounds: int = 0
    """Target forwards that yielded tokens for it, the prefill included."""
    drafted: int = 0
    """Draft tokens the target scored."""
    accepted: int = 0
    rejected: int = 0
    """Rounds that ended in a recovered token; accepted / (accepted + rejected) estimates alpha."""
    missed_drafts: int = 0
    """Rounds in which the requested draft did not arrive in time."""
    ttft_s: float = 0.0
    """Seconds from submission to the first token."""
    total_s: float = 0.0
    """Seconds from submission to the last token."""
    draft_s: float = 0.0
    """Drafting time of its rounds."""
    hidden_s: float = 0.0
    """The part of draft_s during which the target did not wait."""
    draft_width: int | None = None
    """Layers of the drafter whose attention ran at once, in the last round that drafted; None for
    drafters without this choice."""
    predicted_step_s: float = 0.0
    """Seconds that a draft step was predicted to take, in the mean over each draft's steps."""
    draft_step_s: float = 0.0
    """Seconds that it took, in the mean."""
    drafter_lost: bool = False
    """The drafter vanished while the request ran; the rest was decoded without it."""
    preemptions: int = 0
    """How often its cache was given to others, and read again later."""
    cached_prompt: int = 0
    """Prompt tokens that were cached already by requests before it."""
    queued_s: float = 0.0
    """Seconds from submission until it was first served."""
    replays: int = 0
    """How often another engine took it up after the one it ran on was lost."""
    tested_at: tuple[int, ...] = ()
    """How often the first, second, ... draft token of a round was tested: all before it passed."""
    accepted_at: tuple[int, ...] = ()
    """How often it passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A request's one good end."""

    request: int
    reason: str
    """"stop", "length" or "cancelled"."""
    stats: RequestStats = field(default_factory=RequestStats)
    complete: bool | None = None
    """Whether the output satisfies the request's constraint; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A request's bad end, or the whole engine's when `request` is None."""

    request: int | None
    kind: str
    """Name of the class in runtime/errors.py."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """Asks for a Pong with the same number: liveness and round-trip time."""

    number: int
    wants_rounds: bool = False
    """Whether the Pong reports the rounds since the last one that did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus(AheadCounts):
    """What an engine does now, and has done since it started."""

    running: int = 0
    """Requests being decoded."""
    waiting: int = 0
    pages_used: int = 0
    """Pages of the target's cache that requests hold."""
    pages: int = 0
    drafter: str = ""
    """The attached drafter's name."""
    drafter_losses: int = 0
    """Times an attached drafter vanished."""
    rounds: int = 0
    tokens: int = 0
    """Output tokens committed."""
    drafted: int = 0
    accepted: int = 0
    rejected: int = 0
    missed_drafts: int = 0
    draft_s: float = 0.0
    hidden_s: float = 0.0
    """The part of draft_s during which the target did not wait."""
    target_s: float = 0.0
    """Seconds in the target's forwards."""
    preemptions: int = 0
    prefix_hit_tokens: int = 0
    """Tokens of admitted requests that the prefix cache held."""
    expired: int = 0
    """Requests whose deadline passed."""
    drafters: int = 0
    """Drafters attached."""
    prompt_tokens: int = 0
    """Prompt tokens of the requests that were admitted."""
    prefix_query_tokens: int = 0
    """Tokens that were looked up in the prefix cache."""
    drafter_faults: int = 0
    """Times a drafter failed, or sent what was not requested or cannot be tested."""


@dataclass(frozen=True, slots=True)
class Period:
    """A time of work or waiting, in seconds of the leader's clock."""

    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRound:
    """When target and drafters worked in a round, and what came of the drafts that it tested."""

    forward: Period
    """The target's forward."""
    waits: tuple[Period, ...] = ()
    """When the target waited for drafts."""
    drafts: tuple[Period, ...] = ()
    """When the drafters worked, as their answers of this round report it."""
    num_samples: int = 0
    """Samples that took part."""
    num_tokens: int = 0
    """Tokens committed."""
    num_drafted: int = 0
    """Draft tokens that the target scored."""
    num_accepted: int = 0
    num_rejected: int = 0
    """Samples of which a draft token was rejected."""
    num_hits: int = 0
    num_misses: int = 0
    """Samples whose verdict found a draft that was made for it in advance, and none."""
    reads_prompts: bool = False
    """Whether the forward also read prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """Answers a Ping."""

    number: int
    status: EngineStatus = field(default_factory=EngineStatus)
    now_s: float = 0.0
    """The leader's clock, by which the times of the rounds are."""
    rounds: tuple[EngineRound, ...] = ()
    """The rounds since the last such Pong, as far as they are kept, oldest first."""


Message = (
    Hello | DraftRequest | Proposal | Submit | Cancel | Committed | Finished | Failed | Ping | Pong
)
