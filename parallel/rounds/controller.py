"""How many draft tokens to ask for: the number with the best expected tokens per second, or none.

Goodput as in SmartSpec (Liu et al., arXiv 2406.14066, section 4), with the cost of a round of the
mode at hand and each request's own acceptance. Times are arguments: the controller has no clock.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import mul

from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.types import DecodeMode
from parallel.rounds.cost import expected_tokens, round_seconds
from parallel.rounds.cost_model import CostModel
from parallel.rounds.tree_record import TreeRecord

_MEMORY = 0.97
"""Weight a verdict keeps with each later one of the same request."""
_PRIOR_WEIGHT = 6.0
"""Verdicts that the acceptance over all requests counts for in a new request."""
_FIRST_ALPHA = 0.7
_FIRST_LENGTHS = (4, 4, 0, 2)
"""Lengths of the first rounds, so that costs are known at several."""
_PROBE_EVERY = 24
"""After so many plain rounds one round drafts again, to see whether things changed."""
_PROBE_LENGTH = 2
_PROBE_SIZES = (2, 5, 11)
"""Nodes of a tree that is tested to see whether forwards of such sizes became cheaper."""
_FIRST_MIN_GAIN = 0.3
_USUAL_TOKENS = 1.5
"""Tokens of a round, roughly."""
_TOKENS_OF_STEP = 0.5


class AcceptanceEstimate:
    """Decaying counts of accepted and tested drafts: how likely the next one is right.

    Kept by position too, because drafts that copy are right in runs: the first token of a copy
    often fails, the fourth hardly ever.
    """

    def __init__(self, prior: float | Sequence[float], weight: float) -> None:
        """Start from what is believed: `weight` tests with this acceptance.

        Args:
            prior: of any draft token, or of the first, second, ... one.
            weight: how much new observations have to be to outweigh it.
        """
        by_position = [prior] if isinstance(prior, float) else list(prior)
        self._weight = weight
        mean = sum(by_position) / len(by_position)
        self._all_accepted, self._all_tested = mean * weight, weight
        self._accepted = [alpha * weight for alpha in by_position]
        self._tested = [weight] * len(by_position)

    @property
    def alpha(self) -> float:
        """The estimate for any token, strictly between 0 and 1."""
        return self._all_accepted / self._all_tested

    def by_position(self, length: int) -> list[float]:
        """Return the estimates for the first `length` tokens, all before each accepted.

        Beyond what was ever tested, tokens are as likely right as the last one that was.
        """
        known = [a / t for a, t in zip(self._accepted, self._tested, strict=True)][:length]
        return known + [known[-1]] * (length - len(known))

    def as_prior(self, length: int, weight: float) -> "AcceptanceEstimate":
        """Return an estimate that starts from what this one knows."""
        made = AcceptanceEstimate(self.by_position(length), weight)
        made._all_accepted = self.alpha * weight
        return made

    def observe(self, num_accepted: int, *, rejected: bool) -> None:
        """Record one verdict."""
        num_tested = num_accepted + rejected
        self._all_accepted = self._all_accepted * _MEMORY + num_accepted
        self._all_tested = self._all_tested * _MEMORY + num_tested
        while len(self._tested) < num_tested:
            last = self._accepted[-1] / self._tested[-1]
            self._accepted.append(last * self._weight)
            self._tested.append(self._weight)
        for position in range(num_tested):
            self._accepted[position] = self._accepted[position] * _MEMORY + (
                position < num_accepted
            )
            self._tested[position] = self._tested[position] * _MEMORY + 1


def best_draft_length(
    mode: DecodeMode,
    alphas: Sequence[float | Sequence[float]],
    *,
    max_length: int,
    target_s: Callable[[int], float],
    draft_s: Callable[[int], float],
    batch: int | None = None,
) -> int:
    """Return the draft length that maximises a batch's expected tokens per second.

    Args:
        mode: how drafting and verification are arranged.
        alphas: acceptance of the sequences, or of a sample that represents them: of any token, or
            (draft-then-verify alone) of the first, second, ... one.
        max_length: the longest draft to consider.
        target_s: seconds of a target forward over so many positions, all sequences together.
        draft_s: seconds of drafting so many tokens for every sequence.
        batch: sequences that share the forward; None: as many as `alphas`.
    """
    sharing = len(alphas) if batch is None else batch

    def goodput(length: int) -> float:
        tokens = seconds = 0.0
        for given in alphas:
            alpha = given if isinstance(given, float) else given[0]
            if isinstance(given, float):
                tokens += expected_tokens(mode, alpha=alpha, draft_length=length)
            else:
                tokens += 1 + sum(accumulate(given[:length], mul))
            seconds += round_seconds(
                mode,
                alpha=alpha,
                draft_length=length,
                target_s=lambda positions: target_s(positions * sharing),
                draft_s=draft_s,
            )
        return tokens / seconds

    return max(range(max_length + 1), key=goodput)


class DraftLengthController:
    """Chooses each request's draft length from what was measured so far."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self._costs = CostModel()
        self._overall = AcceptanceEstimate(_FIRST_ALPHA, 1.0)
        self._requests: dict[int, AcceptanceEstimate] = {}
        self._num_choices: dict[int, int] = {}
        self._num_plain: dict[int, int] = {}
        self._trees: dict[int, TreeRecord] = {}
        self._num_worthless = 0
        """Trees in a row of which nothing was worth a test."""

    def observe_forward(self, num_positions: int, seconds: float) -> None:
        """Record the time of a target forward."""
        self._costs.observe_forward(num_positions, seconds)

    def predict_steps(self, step_s: Sequence[float]) -> None:
        """Record a new drafter's prediction of a step's seconds with layers 1, 2, ... at a time."""
        self._costs.predict_steps(step_s)

    def observe_draft(self, num_steps: int, seconds: float, *, width: int = 1) -> None:
        """Record the time of a drafter's answer; `width` is its layers at a time."""
        self._costs.observe_draft(num_steps, seconds, width)

    def observe_verdict(self, request: int, num_accepted: int, *, rejected: bool) -> None:
        """Record the verdict on a request's drafts."""
        self._estimate(request).observe(num_accepted, rejected=rejected)
        self._overall.observe(num_accepted, rejected=rejected)

    def predicted_pace(
        self, request: int, mode: DecodeMode, *, batch: int, width: int = 1
    ) -> float | None:
        """Return a request's tokens per second in a mode by the cost formulas, at its best length.

        None while costs are unknown; arguments as of `choose`.
        """
        if not self._costs.is_known:
            return None
        alpha = self._estimate(request).alpha
        length = 0
        if policy_of(mode).drafts:
            length = best_draft_length(
                mode,
                [alpha],
                max_length=self.max_length,
                target_s=self._costs.target_s,
                draft_s=lambda num_steps: self._costs.draft_s(num_steps, width),
                batch=batch,
            )
        return expected_tokens(mode, alpha=alpha, draft_length=length) / round_seconds(
            mode,
            alpha=alpha,
            draft_length=length,
            target_s=lambda positions: self._costs.target_s(positions * batch),
            draft_s=lambda num_steps: self._costs.draft_s(num_steps, width),
        )

    def forward_s(self, num_positions: int) -> float:
        """Return the expected seconds of a forward; 0 until one was timed."""
        return self._costs.target_s(num_positions) if self._costs.knows_forwards else 0.0

    def acceptance(self, request: int) -> float:
        """Return how likely a request's next draft token is right."""
        return self._estimate(request).alpha

    def choose(self, request: int, mode: DecodeMode, *, batch: int, width: int = 1) -> int:
        """Return the draft length for a request's next round.

        Args:
            request: whose.
            mode: its mode; 0 for one that does not draft.
            batch: sequences that share the forward.
            width: the drafter's layers at a time.
        """
        policy = policy_of(mode)
        if not policy.drafts:
            return 0
        made = self._num_choices.get(request, 0)
        self._num_choices[request] = made + 1
        if made < len(_FIRST_LENGTHS) or not self._costs.is_known:
            return min(_FIRST_LENGTHS[made % len(_FIRST_LENGTHS)], self.max_length)
        estimate = self._estimate(request)
        by_position = policy.learns_by_position
        best = best_draft_length(
            mode,
            [estimate.by_position(self.max_length) if by_position else estimate.alpha],
            max_length=self.max_length,
            target_s=self._costs.target_s,
            draft_s=lambda num_steps: self._costs.draft_s(num_steps, width),
            batch=batch,
        )
        plain = self._num_plain.get(request, 0) + 1 if best == 0 else 0
        self._num_plain[request] = plain % _PROBE_EVERY
        if best == 0 and plain == _PROBE_EVERY:
            return min(_PROBE_LENGTH, self.max_length)
        return best

    def fitting(
        self, request: int, mode: DecodeMode, length: int, *, batch: int, width: int = 1
    ) -> int:
        """Return the best draft length up to `length`, at least 2; arguments as of `choose`."""
        if not self._costs.is_known:
            return length
        best = best_draft_length(
            mode,
            [self._estimate(request).alpha],
            max_length=length,
            target_s=self._costs.target_s,
            draft_s=lambda num_steps: self._costs.draft_s(num_steps, width),
            batch=batch,
        )
        return max(best, min(length, 2))

    def tree_budget(self, request: int) -> int:
        """Return how many tokens a request's next tree may have."""
        return self._tree(request).budget

    def observe_tree(self, request: int, num_accepted: int) -> None:
        """Record how many tokens of a request's last tree were accepted."""
        self._tree(request).observe(num_accepted)

    def worth(self, request: int, gains: Sequence[float], *, batch: int) -> int:
        """Return how many of a tree's first tokens to test: those that raise tokens per second.

        Args:
            request: whose.
            gains: how likely each token is kept, falling.
            batch: sequences that share the forward.
        """
        share = self._tree(request).share
        best = self._most_worth([share * gain for gain in gains], batch)
        self._tree(request).test(gains[:best])
        return best

    def worth_of_chain(self, gains: Sequence[float], *, batch: int) -> int:
        """Return how many of a chain's first tokens raise tokens per second, as `worth` does."""
        if not self._costs.knows_forwards:
            return len(gains)
        tokens = [1 + gain for gain in accumulate(gains, initial=0.0)]
        return max(
            range(len(tokens)),
            key=lambda num: tokens[num] / self._costs.target_s((num + 1) * batch),
        )

    def _most_worth(self, gains: Sequence[float], batch: int) -> int:
        best = self.worth_of_chain(gains, batch=batch)
        if not self._costs.knows_forwards:
            return best
        self._num_worthless = self._num_worthless + 1 if best == 0 and gains else 0
        probes, rest = divmod(self._num_worthless, _PROBE_EVERY * batch)
        if probes and not rest:  # without a test the times of larger forwards would never change
            return min(_PROBE_SIZES[probes % len(_PROBE_SIZES)], len(gains))
        return best

    def min_gain(self, *, width: int = 1) -> float:
        """Return how likely a path has to be kept for a model's step after it to pay.

        A step adds about half a token beside what is looked up, times that chance; its time would
        have yielded tokens at the present pace.
        """
        if not self._costs.is_known:
            return _FIRST_MIN_GAIN
        step_s = self._costs.draft_s(2, width) - self._costs.draft_s(1, width)
        return step_s * _USUAL_TOKENS / self._costs.target_s(1) / _TOKENS_OF_STEP

    def forget(self, request: int) -> None:
        """Drop what is kept of a request that ended."""
        for kept in (self._requests, self._num_choices, self._num_plain, self._trees):
            kept.pop(request, None)

    def _tree(self, request: int) -> TreeRecord:
        return self._trees.setdefault(request, TreeRecord())

    def _estimate(self, request: int) -> AcceptanceEstimate:
        if request not in self._requests:
            self._requests[request] = self._overall.as_prior(self.max_length, _PRIOR_WEIGHT)
        return self._requests[request]
