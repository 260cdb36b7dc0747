"""The state of a compiled constraint after some tokens, by llguidance."""

from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from parallel.decoding.constraint import ConstraintBroken, Mask


@dataclass(frozen=True, slots=True)
class KnownTokens:
    """What all states of a model share."""

    tokenizer: LLTokenizer
    vocab_size: int
    """Of the model."""
    end_ids: tuple[int, ...]
    """The end tokens that the tokenizer knows."""


class GrammarState:
    """Wraps a matcher that is never changed: a longer output has a copy of its own.

    A copy takes about 10 us; it shares the grammar, and what the lexer has learned so far.
    """

    __slots__ = ("_mask", "_matcher", "_tokens")

    def __init__(self, matcher: LLMatcher, tokens: KnownTokens) -> None:
        """Wrap a matcher.

        Args:
            matcher: after the output; it becomes this state's own.
            tokens: of the model.
        """
        self._matcher = matcher
        self._tokens = tokens
        self._mask: Mask | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the output may end here."""
        return self._matcher.is_accepting()

    def mask(self) -> Mask:
        """Return for each token whether it may follow, [vocab_size]; computed once.

        Raises:
            ConstraintBroken: a limit of the computation is reached.
        """
        if self._mask is None:
            self._mask = self._computed()
        return self._mask

    def advance(self, token: int) -> "GrammarState":
        """Return the state after one more token.

        Raises:
            ConstraintBroken: the token may not follow.
        """
        matcher = self._matcher.deep_copy()
        tokens = self._tokens
        is_known = 0 <= token < tokens.vocab_size and token not in tokens.end_ids
        if not is_known or not matcher.consume_token(token):
            raise ConstraintBroken(f"the constraint does not allow token {token} here")
        return GrammarState(matcher, tokens)

    def forced(self) -> tuple[int, ...]:
        """Return the tokens that spell what must follow, as the tokenizer spells it.

        The last ones are left out where what follows them may change the spelling; if only one
        token may follow, it is in the answer.
        """
        text = self._matcher.compute_ff_bytes()
        found = tuple(self._tokens.tokenizer.tokenize_partial(text)[0]) if text else ()
        if not found and not self.is_complete and self.mask().sum() == 1:
            found = (int(self.mask().argmax()),)
        return found

    def _computed(self) -> Mask:
        matcher = self._matcher.deep_copy()  # an error would spoil it for good
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        if matcher.is_error():
            raise ConstraintBroken(f"a limit of constraints is reached: {_first_line(matcher)}")
        mask = np.unpackbits(bits, bitorder="little", count=self._tokens.vocab_size).astype(
            np.bool_
        )
        mask[list(self._tokens.end_ids)] = False
        mask.flags.writeable = False
        return mask


def _first_line(matcher: LLMatcher) -> str:
    return matcher.get_error().strip().partition("\n")[0]
