"""How many layers of the drafter run their attention at once.

EasySpec (Wu et al., arXiv 2502.02493): wider forwards take fewer steps one after the other, and
draft a little worse.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from parallel.decoding.layer_groups import layer_groups
from parallel.decoding.width_chooser import WidthChooser

_MIN_GAIN = 0.03
"""Share of a draft step that a wider one has to save to be tried at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackTimes:
    """What the parts of a drafter's forward over one token take on its group, in seconds."""

    attention_s: float
    """One layer's attention, on the slowest rank."""
    gather_s: float
    """One exchange of its output."""
    mlp_s: float
    """One layer's feed-forward block, its exchange included."""
    head_s: float
    """Embedding and head."""

    def step_s(self, width: int, *, num_layers: int, size: int, first: int = 0) -> float:
        """Return the seconds of a draft step (Wu et al., section 3, with measured exchanges).

        Args:
            width: layers whose attention runs at once.
            num_layers: of the drafter.
            size: ranks of its group.
            first: layers before this one run one after the other.
        """
        seconds = self.head_s + num_layers * self.mlp_s
        for layers in layer_groups(num_layers, width, first):
            seconds += -(-len(layers) // size) * self.attention_s + self.gather_s
        return seconds


def worthwhile_widths(step_s: Sequence[float]) -> list[int]:
    """Return width 1 and all that are predicted to save time over every narrower one kept."""
    kept: list[int] = []
    for width, seconds in enumerate(step_s, start=1):
        if not kept or seconds < step_s[kept[-1] - 1] * (1 - _MIN_GAIN):
            kept.append(width)
    return kept


class WidthPlan:
    """Finds the width with the most committed tokens per second, from prediction and trial.

    All requests together have one width: they share the drafter's forwards.
    """

    def __init__(self, step_s: Sequence[float] = (), *, fixed: int | None = None) -> None:
        """Start with a drafter's predictions.

        Args:
            step_s: predicted seconds of its steps with widths 1, 2, ...; none: it has no choice.
            fixed: the width that its user fixed.
        """
        self._step_s = tuple(step_s)
        self._fixed = fixed
        self._chooser = WidthChooser(worthwhile_widths(step_s))

    def choose(self) -> int | None:
        """Return the width of the next round's drafts; None where there is no choice."""
        if self._fixed is not None or not self._step_s:
            return self._fixed
        return self._chooser.choose()

    def observe(self, width: int | None, tokens: int, seconds: float) -> None:
        """Record a round: the tokens that it committed, and its seconds."""
        if width is not None:
            self._chooser.observe(width, tokens, seconds)

    def predicted_s(self, width: int | None, num_steps: int) -> float:
        """Return the seconds that a draft was predicted to take; 0 where nothing was predicted.

        The first step is exact, for calibration; the others have the width.
        """
        if width is None or not (num_steps and width <= len(self._step_s)):
            return 0.0
        return self._step_s[0] + (num_steps - 1) * self._step_s[width - 1]
