"""Whichever mode commits the most tokens per second, as predicted and as seen."""

from parallel.decoding.modes.speculative import SpeculativeMode
from parallel.decoding.types import DecodeMode


class AutoMode(SpeculativeMode):
    """Is replaced by one of its choices before a request's first round.

    `parallel/rounds/mode_chooser.py` compares them, and the round loop changes a request's mode
    where no draft is in flight.
    """

    takes_trees = False
    learns_by_position = False

    def __init__(self, choices: tuple[DecodeMode, ...]) -> None:
        """Choose among `choices`, tried in this order."""
        self.choices = choices
