"""One request in flight, as the leader sees it."""

import math
from collections.abc import Sequence as Ids
from dataclasses import asdict, dataclass, field, replace

from parallel.decoding.ahead_counts import AheadCounts
from parallel.decoding.alignment import AlignedSample
from parallel.decoding.closing import check_completion, completion
from parallel.decoding.constraint import ConstraintBroken, ConstraintState
from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.rng import request_key
from parallel.decoding.round_state import (
    Commit,
    State,
)
from parallel.decoding.types import (
    DecodeMode,
    DraftTree,
    RngKey,
)
from parallel.decoding.verify import verifier_of
from parallel.messages import DraftItem, RequestStats, Submit
from parallel.rounds.machine import start
from runtime.models.tokenizer import StopMatcher


@dataclass(slots=True, kw_only=True)
class Counters:
    """What `RequestStats` reports, while it is still being counted."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    rejected: int = 0
    missed_drafts: int = 0
    ahead: AheadCounts = field(default_factory=AheadCounts)
    draft_s: float = 0.0
    hidden_s: float = 0.0
    draft_steps: int = 0
    draft_width: int | None = None
    predicted_s: float = 0.0
    drafter_lost: bool = False
    preemptions: int = 0
    cached_prompt: int = 0
    first_token_s: float | None = None
    started_s: float | None = None
    tested_at: list[int] = field(default_factory=list)
    accepted_at: list[int] = field(default_factory=list)

    def count(self, commit: Commit) -> None:
        """Add what a round committed."""
        self.rounds += 1
        self.drafted += commit.num_drafted
        self.accepted += commit.num_accepted
        self.rejected += commit.rejected
        self.ahead = self.ahead.counting(commit)
        num_tested = commit.num_accepted + commit.rejected
        for counts in (self.tested_at, self.accepted_at):
            counts.extend([0] * (num_tested - len(counts)))
        for place in range(num_tested):
            self.tested_at[place] += 1
            self.accepted_at[place] += place < commit.num_accepted


@dataclass(slots=True, kw_only=True)
class DrafterView:
    """What the drafter holds of a request, so that each round sends it only what is new."""

    token_ids: list[int] = field(default_factory=list)
    num_certain: int = 0
    """Length of the prefix that was committed when the drafter last received an item."""
    epoch: int = 0
    """That of the last item."""
    scored: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    """What the target scored in the last round, until the drafter receives it."""

    def forget(self) -> None:
        """Start over: the next item carries the request whole."""
        self.token_ids.clear()
        self.num_certain = 0

    def item(self, state: State, committed: Ids[int], num_draft: int) -> DraftItem:
        """Make the item that gives the drafter what the state has, and record that it has it."""
        request, epoch = state.request, state.epoch
        self.epoch = epoch
        policy = policy_of(state.mode)
        stream = policy.streams
        scored, self.scored = self.scored, ()
        if state.num_pending:  # it is drafting the block whose first token was kept
            self.num_certain = len(committed)
            return DraftItem(
                request=request,
                epoch=epoch,
                keep=state.base,
                tail=(),
                num_draft=num_draft,
                stream=stream,
                scored=scored,
            )
        wanted = [*committed, *state.in_flight.token_ids]
        keep = min(self.num_certain, len(wanted))
        limit = min(len(self.token_ids), len(wanted))
        while keep < limit and self.token_ids[keep] == wanted[keep]:
            keep += 1
        tail = tuple(wanted[keep:])
        self.token_ids[keep:] = tail
        self.num_certain = len(committed)
        return DraftItem(
            request=request,
            epoch=epoch,
            keep=keep,
            tail=tail,
            num_draft=num_draft,
            stream=stream,
            scored=scored,
            num_in_flight=len(state.in_flight) if policy.prepares_outcomes else 0,
            num_outcomes=policy.num_outcomes(num_draft) if num_draft else 0,
        )

    def drafted(self, epoch: int, base: int, token_ids: Ids[int]) -> None:
        """Record that the drafter has drafted these tokens after its first `base`.

        An answer to an item of an earlier epoch may come late: the last item made it void.
        """
        if epoch == self.epoch and base == len(self.token_ids):
            self.token_ids.extend(token_ids)


class DecodingSequence:
    """Tokens, decoding state and counters of one request.

    `number` is the leader's own name for it, unique among all drivers, and names its cache slot.
    """

    def __init__(
        self,
        number: int,
        submit: Submit,
        *,
        driver: int,
        submitted_s: float,
        max_tokens: int,
        end_ids: frozenset[int] = frozenset(),
        constraint: ConstraintState | None = None,
        aligned: AlignedSample | None = None,
    ) -> None:
        """Start where the request's output ends; raises ConstraintBroken if it is illegal."""
        self.number = number
        self.submit = submit
        self.sampling = submit.sampling
        """How its tokens are drawn."""
        self.end_ids = end_ids
        """The tokens that end it."""
        if submit.sampling.min_tokens or submit.sampling.constraint is not None:
            self.sampling = replace(submit.sampling, end_ids=tuple(sorted(end_ids)))
        self.driver = driver
        self.submitted_s = submitted_s
        self.max_tokens = max_tokens
        self.token_ids = [*submit.prompt_ids, *submit.output_ids]
        self.num_prompt = len(submit.prompt_ids)
        self.num_cached = 0
        self.state: State = start(
            request=number,
            mode=submit.mode,
            num_committed=len(self.token_ids),
            last_token=self.token_ids[-1],
        )
        self.key = RngKey(
            seed=submit.sampling.seed,
            request=request_key(submit.prompt_ids, sample_index=submit.sample_index),
        )
        self.next_mode = self.state.mode
        """What its mode is to be once nothing is in flight."""
        self.view = DrafterView()
        self.known_to_drafter = False
        self.drafter: int | None = None
        """Number of the drafter that has it."""
        self.stop_matcher: StopMatcher | None = None
        self.counters = Counters()
        self.constraint = constraint
        """What may follow its output; None: anything."""
        self.aligned = aligned
        """What is known of its legal futures; None: its samples are not aligned."""
        try:
            for num, token in enumerate(submit.output_ids, 1):
                self._follow(token, num_left=max_tokens - num)
        except ConstraintBroken as error:
            raise ConstraintBroken(f"the output so far is illegal: {error}") from error
        if self.closes and self.constraint is not None:
            check_completion(self.constraint, self.num_remaining)
        self._highest_id = -1
        self._num_looked_at = 0

    def append(self, token: int) -> None:
        """Append a committed token."""
        self.token_ids.append(token)
        self._follow(token, num_left=self.num_remaining)

    def _follow(self, token: int, *, num_left: int) -> None:
        if self.constraint is not None and token not in self.end_ids:
            self.constraint = self.constraint.advance(token)
            if self.closes:
                completion(self.constraint, num_left)
        if self.aligned is not None:
            self.aligned.follow(token)

    @property
    def closes(self) -> bool:
        """Whether its output is completed within its most tokens."""
        spec = self.sampling.constraint
        return spec is not None and spec.close

    @property
    def is_complete(self) -> bool | None:
        """Whether the output satisfies the constraint; None without one."""
        return None if self.constraint is None else self.constraint.is_complete

    @property
    def highest_id(self) -> int:
        """The highest token id in its text and among the drafts in flight."""
        new = self.token_ids[self._num_looked_at :]
        self._num_looked_at = len(self.token_ids)
        self._highest_id = max((self._highest_id, *new))
        return max((self._highest_id, *self.state.in_flight.token_ids))

    @property
    def deadline_s(self) -> float:
        """When its output is of no use any longer."""
        timeout_s = self.submit.timeout_s
        return self.submitted_s + timeout_s if timeout_s is not None else math.inf

    @property
    def num_certain(self) -> int:
        """How many of its first tokens have final positions in the cache."""
        kept = self.state.num_committed - 1 - len(self.state.moves)
        return min(self.num_cached, kept)

    def restart(self) -> None:
        """Continue from its tokens after its cache was given away."""
        fresh = start(
            request=self.number,
            mode=self.state.mode,
            num_committed=len(self.token_ids),
            last_token=self.token_ids[-1],
        )
        self.state = replace(fresh, epoch=self.state.epoch + 1)
        self.view = DrafterView()
        self.num_cached = 0
        self.known_to_drafter = False
        self.counters.preemptions += 1

    @property
    def asked_mode(self) -> DecodeMode:
        """The mode that its request asked for."""
        return self.submit.mode

    @property
    def draft_length(self) -> int | None:
        """The draft length that its request asked for; None leaves it to the controller."""
        return self.submit.draft_length

    @property
    def mode(self) -> DecodeMode:
        """How its rounds are arranged now."""
        return self.state.mode

    @property
    def needs_draft_probs(self) -> bool:
        """Whether the verifier tests drafts against the probabilities they were drawn from."""
        is_needed = verifier_of(self.submit.verifier).needs_draft_probs
        return is_needed and not self.sampling.is_greedy

    @property
    def num_output(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - self.num_prompt

    @property
    def capacity(self) -> int:
        """Tokens it can grow to."""
        return self.num_prompt + self.max_tokens

    @property
    def num_remaining(self) -> int:
        """Tokens it may still generate."""
        return self.max_tokens - self.num_output

    @property
    def in_flight(self) -> DraftTree:
        """Drafts proposed and not yet verified."""
        return self.state.in_flight

    def stats(self, now_s: float) -> RequestStats:
        """Return the report of a request that ends now."""
        counters = self.counters
        first_s = counters.first_token_s if counters.first_token_s is not None else now_s
        return RequestStats(
            rounds=counters.rounds,
            drafted=counters.drafted,
            accepted=counters.accepted,
            rejected=counters.rejected,
            missed_drafts=counters.missed_drafts,
            **asdict(counters.ahead),
            ttft_s=first_s - self.submitted_s,
            total_s=now_s - self.submitted_s,
            draft_s=counters.draft_s,
            hidden_s=counters.hidden_s,
            draft_width=counters.draft_width,
            predicted_step_s=counters.predicted_s / max(counters.draft_steps, 1),
            draft_step_s=counters.draft_s / max(counters.draft_steps, 1),
            drafter_lost=counters.drafter_lost,
            preemptions=counters.preemptions,
            cached_prompt=counters.cached_prompt,
            queued_s=(counters.started_s or now_s) - self.submitted_s,
            tested_at=tuple(counters.tested_at),
            accepted_at=tuple(counters.accepted_at),
        )
