"""The state of a compiled constraint after some tokens, by llguidance."""

from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from parallel.decoding.constraint import ConstraintBroken, Mask
from runtime.constraints.completion import (
    COMPILE_STATES,
    ROUND_STATES,
    ByteTokens,
    completion_of,
)


@dataclass(frozen=True, slots=True)
class KnownTokens:
    """What all states of a model share."""

    tokenizer: LLTokenizer
    vocab_size: int
    """Of the model."""
    end_ids: tuple[int, ...]
    """The end tokens that the tokenizer knows."""
    by_byte: ByteTokens = field(init=False)

    def __post_init__(self) -> None:
        """Find the tokens of single bytes."""
        found = ByteTokens.of(self.tokenizer, min(self.vocab_size, self.tokenizer.vocab_size))
        object.__setattr__(self, "by_byte", found)


class GrammarState:
    """Wraps a matcher that is never changed: a longer output has a copy of its own.

    A copy takes about 10 us; it shares the grammar, and what the lexer has learned so far. States
    after the same tokens share their mask while any of them is in use: leader and drafters compute
    it once.
    """

    __slots__ = ("_completion", "_hint", "_is_searched", "_matcher", "_place", "_tokens")

    def __init__(
        self,
        matcher: LLMatcher,
        tokens: KnownTokens,
        hint: tuple[int, ...] | None = None,
        place: "_Place | None" = None,
    ) -> None:
        """Wrap a matcher.

        Args:
            matcher: after the output; it becomes this state's own.
            tokens: of the model.
            hint: what completed the output without its last token; None at its start.
            place: what states after these tokens share; None at the start.
        """
        self._matcher = matcher
        self._tokens = tokens
        self._hint = hint
        self._completion: tuple[int, ...] | None = None
        self._is_searched = False
        self._place = place or _Place()

    @property
    def is_complete(self) -> bool:
        """Whether the output may end here."""
        return self._matcher.is_accepting()

    def mask(self) -> Mask:
        """Return for each token whether it may follow, [vocab_size]; computed once.

        Raises:
            ConstraintBroken: a limit of the computation is reached.
        """
        if self._place.mask is None:
            self._place.mask = self._computed()
        return self._place.mask

    def advance(self, token: int) -> "GrammarState":
        """Return the state after one more token.

        Raises:
            ConstraintBroken: the token may not follow.
        """
        matcher, tokens = self._matcher.deep_copy(), self._tokens
        is_known = 0 <= token < tokens.vocab_size and token not in tokens.end_ids
        if not is_known or not matcher.consume_token(token):
            raise ConstraintBroken(f"the constraint does not allow token {token} here")
        known = self._completion or ()
        hint = known[1:] if known[:1] == (token,) else known
        return GrammarState(matcher, tokens, hint, self._place.after(token))

    def completion(self, most: int) -> tuple[int, ...] | None:
        """Return tokens that complete the output, at most so many; None if none are found.

        What completed the output before its last token is tried first, and then a search, which is
        longer at the start of an output. The answer depends on the output alone if each state on
        the way was asked.
        """
        known = self._completion
        if known is not None and len(known) <= most:
            return known
        max_states = COMPILE_STATES if self._hint is None else ROUND_STATES
        found = completion_of(
            self._matcher,
            self._tokens.by_byte,
            self._hint or (),
            most=most,
            max_states=0 if self._is_searched else max_states,
        )
        self._is_searched = True
        if found is not None:
            self._completion = found
        return found

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
        mask = np.unpackbits(bits, bitorder="little", count=self._tokens.vocab_size).view(np.bool_)
        mask[list(self._tokens.end_ids)] = False
        mask.flags.writeable = False
        return mask


class _Place:
    """The mask after some tokens, and the places after one more token that are in use."""

    __slots__ = ("__weakref__", "_following", "mask")

    def __init__(self) -> None:
        self.mask: Mask | None = None
        self._following = WeakValueDictionary[int, _Place]()

    def after(self, token: int) -> "_Place":
        """Return the place after one more token."""
        found = self._following.get(token)
        if found is None:
            found = self._following[token] = _Place()
        return found


def _first_line(matcher: LLMatcher) -> str:
    return matcher.get_error().strip().partition("\n")[0]
