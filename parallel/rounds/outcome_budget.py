"""How many outcomes of a verdict to draft for, by the measured time of a draft step.

More outcomes are hits more often. They also make each step take longer, so that drafts are shorter
when the verdict is there, or cost nothing, where a step's time is that of reading the weights.
"""

from dataclasses import dataclass

from parallel.decoding.modes.geometric import geometric_sum
from parallel.decoding.modes.outcomes import GUESSES, USUAL_CATCH
from parallel.rounds.cost_model import TimeCurve

CHOICES = (2, 4, 8, 12, 16, 24)
"""Numbers of outcomes that are considered; of more, each is worth little, and takes a message."""
_MEMORY = 0.97
_PRIOR_REJECTIONS = 8.0
"""Rejected drafts that the usual guesses count for."""
_SMOOTHING = 0.2
_MOST_OPEN = 64
"""Answers that may end later, or never."""
_AGAIN_EVERY = 100
"""Choices after which a larger number is tried again: its time may have changed."""


class OutcomeBudget:
    """The times of steps by number of branches, and how often recovered tokens are guessed."""

    def __init__(self) -> None:
        """Start with the usual guesses and no times."""
        self._steps = TimeCurve()
        self._first_s: float | None = None
        self._rejections = _PRIOR_REJECTIONS
        self._hits = _PRIOR_REJECTIONS * (1 - (1 - USUAL_CATCH) ** GUESSES)
        self._guesses = _PRIOR_REJECTIONS * GUESSES
        self._num_choices = 0

    @property
    def catch(self) -> float:
        """How often the next guess of a recovered token is right where those before were wrong."""
        hit_rate = min(self._hits / self._rejections, 0.999)
        mean_guesses = self._guesses / self._rejections
        found: float = 1 - (1 - hit_rate) ** (1 / mean_guesses)
        return found

    def observe_first(self, seconds: float) -> None:
        """Record the time of the first step, which reads what is in flight along one branch."""
        self._steps.observe(1, seconds)
        known_s = seconds if self._first_s is None else self._first_s
        self._first_s = known_s + _SMOOTHING * (seconds - known_s)

    def observe_step(self, num_branches: int, seconds: float) -> None:
        """Record the time of a drafter's step that grew so many branches of each sequence.

        How many sequences share the step changes slowly: their number is no argument.
        """
        self._steps.observe(num_branches, seconds)

    def observe_rejection(self, *, is_hit: bool, guesses: float) -> None:
        """Record whether a recovered token was guessed, with so many guesses a place."""
        self._rejections = self._rejections * _MEMORY + 1
        self._hits = self._hits * _MEMORY + is_hit
        self._guesses = self._guesses * _MEMORY + guesses

    def choose(self, draft_length: int, *, alpha: float, forward_s: float, usual: int) -> int:
        """Return the number of outcomes of a sequence with the most tokens a round.

        Args:
            draft_length: tokens asked for after each outcome.
            alpha: acceptance of a draft token.
            forward_s: seconds until the verdict.
            usual: the number while step or forward was not timed.
        """
        first_s = self._first_s
        if first_s is None or not self._steps.is_known or forward_s <= 0:
            return usual
        self._num_choices += 1

        def tokens(num: int) -> float:
            num_steps = (forward_s - first_s) / self._steps.at(num)
            length = min(float(draft_length), 1 + num_steps)
            if length <= 1:
                return length - 1  # not one token is there: the fewer branches, the sooner it is
            return _tokens_of_round(alpha, length, missed=1 - self.catch, num_outcomes=num)

        best = max(CHOICES, key=tokens)
        larger = [num for num in CHOICES if num > best]
        return larger[0] if larger and self._num_choices % _AGAIN_EVERY == 0 else best


def _tokens_of_round(alpha: float, length: float, *, missed: float, num_outcomes: int) -> float:
    """Return the mean tokens of a round, as `modes/outcomes.py` does, for a number of outcomes.

    One is the drafter's own continuation. The others are spread over the places at which a draft of
    `length` - 1 tokens can be rejected, or are all at one place after a round that tested none.
    """
    others = num_outcomes - 1
    spread: float = missed ** (others / length)
    whole: float = alpha ** (length - 1)
    hit = (1 - whole) * (1 - spread) + whole * (1 - (1 - alpha) * spread)
    hit_after_none: float = 1 - (1 - alpha) * missed**others
    share = hit_after_none / (hit_after_none + 1 - hit)
    return (1 - share) + share * geometric_sum(alpha, length)


class AnswerTimes:
    """Takes the times of steps from the parts of answers, each of which is a step."""

    def __init__(self, budget: OutcomeBudget) -> None:
        """Record the times in a budget."""
        self._budget = budget
        self._open: dict[int, _OpenAnswer] = {}

    def ask(self, number: int, num_outcomes: int, *, reads_prompt: bool) -> None:
        """Record a request for drafts of so many outcomes of each sequence."""
        self._open[number] = _OpenAnswer(num_outcomes, reads_prompt)
        while len(self._open) > _MOST_OPEN:
            del self._open[next(iter(self._open))]

    def arrive(self, number: int, num_steps: int, worked_s: float, *, is_last: bool) -> None:
        """Record a part of the answer to a request: its steps and the drafter's seconds so far."""
        answer = self._open.pop(number, None) if is_last else self._open.get(number)
        if answer is None:
            return
        if num_steps == 1 and answer.num_steps == 0 and not answer.reads_prompt:
            self._budget.observe_first(worked_s)
        elif num_steps == answer.num_steps + 1 and num_steps > 1:
            self._budget.observe_step(answer.num_outcomes, worked_s - answer.worked_s)
        answer.num_steps, answer.worked_s = num_steps, worked_s


@dataclass(slots=True)
class _OpenAnswer:
    num_outcomes: int
    reads_prompt: bool
    num_steps: int = 0
    worked_s: float = 0.0
