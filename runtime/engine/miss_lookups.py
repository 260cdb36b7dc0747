"""Look-ups that answer a verdict no draft was made for: the next round tests a copy, not nothing.

They copy from the request's own text in the leader's thread, which takes no message. How often
copies come true is learned over all requests.
"""

from dataclasses import dataclass, field

from parallel.decoding.round_state import Commit
from parallel.drafting.ngram import NgramIndex, NgramSource
from parallel.drafting.tree import GrownTree, Odds, grow
from runtime.engine.sequence import DecodingSequence

_MOST_TEXT = 4096
"""Tokens of a text that are indexed when the first miss comes: a few milliseconds' work."""


@dataclass(slots=True)
class _Text:
    """One request's text from its token `start` on, and what was looked up last."""

    start: int
    index: NgramIndex = field(default_factory=NgramIndex)
    grown: GrownTree | None = None
    grown_at: int = 0


class MissLookups:
    """The texts of the requests that missed, and the odds of copies."""

    def __init__(self) -> None:
        self._odds = Odds()
        self._texts: dict[int, _Text] = {}

    def look_up(self, sequence: DecodingSequence, commit: Commit, num_draft: int) -> GrownTree:
        """Return a chain of at most `num_draft` tokens after what a sequence has with a commit."""
        text = self._texts.get(sequence.number)
        if text is None:
            start = max(0, len(sequence.token_ids) - _MOST_TEXT)
            text = self._texts[sequence.number] = _Text(start)
        index = text.index
        index.append(sequence.token_ids[text.start + len(index) :])
        index.append(commit.token_ids)
        if text.grown is not None:
            text.grown.learn(self._odds, index.token_ids[text.grown_at :])
        text.grown = grow([NgramSource(index)], self._odds, num_draft, branching=False)
        text.grown_at = len(index)
        return text.grown

    def forget(self, number: int) -> None:
        """Drop a request's text."""
        self._texts.pop(number, None)
