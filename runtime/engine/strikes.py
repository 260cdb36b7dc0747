"""How many faults of a drafter are taken before it is dropped."""

_MAX_WEIGHT = 5.0
_FORGIVEN = 0.05
"""Part of a fault that one good answer makes up for: one fault in twenty answers is tolerated."""
_SILENCE = 2.0
"""Faults that a question without any answer counts for: it cost the target a whole wait."""


class Strikes:
    """Counts a drafter's faults; good answers make up for old ones."""

    def __init__(self) -> None:
        self._weight = 0.0
        self.num_faults = 0
        """All of them, forgiven ones too."""

    @property
    def is_out(self) -> bool:
        """Whether the drafter is to be dropped."""
        return self._weight >= _MAX_WEIGHT

    def fault(self) -> bool:
        """Count a fault; return whether to log it: the 1st, 2nd, 4th, 8th, ... is logged."""
        self.num_faults += 1
        self._weight += 1.0
        return self.num_faults & (self.num_faults - 1) == 0

    def silence(self) -> None:
        """Count a question that was never answered."""
        self._weight += _SILENCE

    def good(self) -> None:
        """Count a good answer."""
        self._weight = max(0.0, self._weight - _FORGIVEN)
