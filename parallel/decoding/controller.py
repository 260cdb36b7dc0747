"""How many draft tokens to ask for: the number with the best expected tokens per second, 0 included.

Goodput as in SmartSpec (Liu et al., arXiv 2406.14066, section 4), with the cost of a round of the mode at hand and
each request's own acceptance. Times are arguments: the controller has no clock.
"""

from collections.abc import Callable, Sequence

from parallel.decoding.cost import expected_tokens, round_seconds
from parallel.decoding.types import DecodeMode

_SMOOTHING = 0.2
"""Weight of the newest observation in a running mean."""
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


class CostModel:
    """Running estimates of forward and draft times on this machine."""

    def __init__(self) -> None:
        self._target_s: dict[int, float] = {}
        self._draft_step_s: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether both times have been seen."""
        return bool(self._target_s) and self._draft_step_s is not None

    def observe_forward(self, num_positions: int, seconds: float) -> None:
        """Take in a target forward over `num_positions` tokens."""
        self._target_s[num_positions] = _mean(self._target_s.get(num_positions), seconds)

    def observe_draft(self, num_steps: int, seconds: float) -> None:
        """Take in a draft of `num_steps` tokens, the exchange included."""
        self._draft_step_s = _mean(self._draft_step_s, seconds / num_steps)

    def target_s(self, num_positions: int) -> float:
        """Return the expected seconds of a forward: between and beyond what was seen, on a line."""
        known = sorted(self._target_s)
        below = [k for k in known if k <= num_positions]
        above = [k for k in known if k >= num_positions]
        if not below:
            return self._target_s[above[0]]
        if not above:
            if len(below) == 1:
                return self._target_s[below[0]]
            below, above = below[:-1], below[-1:]
        left, right = below[-1], above[0]
        if left == right:
            return self._target_s[left]
        slope = (self._target_s[right] - self._target_s[left]) / (right - left)
        lowest = min(self._target_s.values())
        return max(self._target_s[left] + slope * (num_positions - left), lowest)

    def draft_s(self, num_steps: int) -> float:
        """Return the expected seconds of a draft."""
        assert self._draft_step_s is not None, "nothing was drafted yet"
        return self._draft_step_s * num_steps


class AcceptanceEstimate:
    """A decaying count of accepted and rejected drafts: how likely the next one is right."""

    def __init__(self, prior: float, weight: float) -> None:
        self._accepted = prior * weight
        self._rejected = (1 - prior) * weight

    @property
    def alpha(self) -> float:
        """The estimate, strictly between 0 and 1."""
        return self._accepted / (self._accepted + self._rejected)

    def observe(self, num_accepted: int, *, rejected: bool) -> None:
        """Take in one verdict."""
        self._accepted = self._accepted * _MEMORY + num_accepted
        self._rejected = self._rejected * _MEMORY + rejected


def best_draft_length(
    mode: DecodeMode,
    alphas: Sequence[float],
    *,
    max_length: int,
    target_s: Callable[[int], float],
    draft_s: Callable[[int], float],
) -> int:
    """Return the draft length that maximises a batch's expected tokens per second.

    Args:
        mode: how drafting and verification are arranged.
        alphas: acceptance of each sequence of the batch.
        max_length: the longest draft to consider.
        target_s: seconds of a target forward over so many positions, all sequences together.
        draft_s: seconds of drafting so many tokens for every sequence.
    """
    batch = len(alphas)

    def goodput(length: int) -> float:
        tokens = sum(expected_tokens(mode, alpha=a, draft_length=length) for a in alphas)
        seconds = round_seconds(
            mode,
            draft_length=length,
            target_s=lambda positions: target_s(positions * batch),
            draft_s=draft_s,
        )
        return tokens / seconds

    return max(range(max_length + 1), key=goodput)


class DraftLengthController:
    """Chooses each request's draft length from what was measured so far."""

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length
        self._costs = CostModel()
        self._overall = AcceptanceEstimate(_FIRST_ALPHA, 1.0)
        self._requests: dict[int, AcceptanceEstimate] = {}
        self._num_choices: dict[int, int] = {}
        self._num_plain: dict[int, int] = {}

    def observe_forward(self, num_positions: int, seconds: float) -> None:
        """Take in a target forward."""
        self._costs.observe_forward(num_positions, seconds)

    def observe_draft(self, num_steps: int, seconds: float) -> None:
        """Take in a drafter's answer."""
        self._costs.observe_draft(num_steps, seconds)

    def observe_verdict(self, request: int, num_accepted: int, *, rejected: bool) -> None:
        """Take in what became of a request's drafts."""
        self._estimate(request).observe(num_accepted, rejected=rejected)
        self._overall.observe(num_accepted, rejected=rejected)

    def choose(self, request: int, mode: DecodeMode, *, batch: int) -> int:
        """Return the draft length for a request's next round.

        Args:
            request: whose.
            mode: its mode; AUTOREGRESSIVE is always 0.
            batch: sequences that share the forward.
        """
        if mode is DecodeMode.AUTOREGRESSIVE:
            return 0
        made = self._num_choices.get(request, 0)
        self._num_choices[request] = made + 1
        if made < len(_FIRST_LENGTHS) or not self._costs.is_known:
            return min(_FIRST_LENGTHS[made % len(_FIRST_LENGTHS)], self._max_length)
        best = best_draft_length(
            mode,
            [self._estimate(request).alpha] * batch,
            max_length=self._max_length,
            target_s=self._costs.target_s,
            draft_s=self._costs.draft_s,
        )
        plain = self._num_plain.get(request, 0) + 1 if best == 0 else 0
        self._num_plain[request] = plain % _PROBE_EVERY
        if best == 0 and plain == _PROBE_EVERY:
            return min(_PROBE_LENGTH, self._max_length)
        return best

    def forget(self, request: int) -> None:
        """Drop what is kept of a request that ended."""
        for kept in (self._requests, self._num_choices, self._num_plain):
            kept.pop(request, None)

    def _estimate(self, request: int) -> AcceptanceEstimate:
        if request not in self._requests:
            self._requests[request] = AcceptanceEstimate(self._overall.alpha, _PRIOR_WEIGHT)
        return self._requests[request]


def _mean(before: float | None, seconds: float) -> float:
    return seconds if before is None else before + _SMOOTHING * (seconds - before)
