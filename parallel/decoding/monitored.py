"""Constraints by a monitor: a program that knows which words may follow a text.

Monitor-guided decoding (Agrawal et al., arXiv 2306.10763, section 3): nothing is constrained until
the text ends with a trigger, such as a dot; then the monitor is asked for the words that may
follow, and tokens spell one of them until something else than a letter, a digit or an underscore.
A token that has a trigger and the beginning of a word would pass the monitor by: it is illegal.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from parallel.decoding.constraint import ConstraintBroken, Mask

Words = frozenset[bytes]


class MonitorAnswer(Protocol):
    """What a monitor will say about a text."""

    def wait(self) -> Words | None:
        """Return the words that may follow; None if any text may.

        Raises:
            ConstraintBroken: the monitor failed, or did not answer in time; names it.
        """
        ...

    def known(self) -> Words | None:
        """Return the words if they have arrived, without waiting; none if they have not."""
        ...


Ask = Callable[[bytes], MonitorAnswer]
"""Asks about a text that ends with the trigger; returns at once."""


class MonitoredTokens:
    """A vocabulary as monitors need it: tokens by their text."""

    def __init__(self, spelled: Sequence[bytes | None], trigger: bytes) -> None:
        """Sort the tokens.

        Args:
            spelled: the text of each token; None for one that is in no text.
            trigger: one byte, after which the monitor is asked.
        """
        self.spelled = spelled
        self.trigger = trigger
        self._by_text: dict[bytes, list[int]] = {}
        for token, text in enumerate(spelled):
            if text:
                self._by_text.setdefault(text, []).append(token)
        self._texts = sorted(self._by_text)

    @cached_property
    def free(self) -> Mask:
        """Which tokens may follow where nothing is constrained, [vocab_size]."""
        found = np.array([bool(text and not self._passes_by(text)) for text in self.spelled])
        found.flags.writeable = False
        return found

    def spelling(self, words: Iterable[bytes]) -> Mask:
        """Return which tokens continue one of the words, or end one and continue freely."""
        found = np.zeros(len(self.spelled), dtype=np.bool_)
        for word in words:
            for size in range(1, len(word) + 1):
                found[self._by_text.get(word[:size], [])] = True
            for place in range(bisect_left(self._texts, word), len(self._texts)):
                text = self._texts[place]
                if not text.startswith(word):
                    break
                if ends_word(text[len(word) :]):
                    found[self._by_text[text]] = True
        return found & self.free

    def _passes_by(self, text: bytes) -> bool:
        """Return whether a token has a trigger and then the beginning of a word."""
        *heads, last = text.split(self.trigger)
        after = [*heads[1:], last] if heads else []
        return any(part and not ends_word(part) for part in after)


class MonitoredState:
    """A text, and what the monitor said about its end."""

    def __init__(
        self,
        tokens: MonitoredTokens,
        ask: Ask,
        text: bytes,
        *,
        words: Words | None = None,
    ) -> None:
        """Begin after a text; asks the monitor if it ends with the trigger.

        Args:
            tokens: of the model.
            ask: asks the monitor.
            text: the prompt and the output.
            words: what must follow, if the text ends within a word; None: anything may.
        """
        self._tokens = tokens
        self._ask = ask
        self._text = text
        self._words = words
        is_asked = words is None and text.endswith(tokens.trigger)
        self._answer = ask(text) if is_asked else None
        self._mask: Mask | None = None

    @property
    def is_complete(self) -> bool:
        """Whether no word is begun, or the one that is can end here; does not wait."""
        words = self._words if self._answer is None else self._answer.known()
        return words is None or b"" in words

    def mask(self) -> Mask:
        """Return for each token whether it may follow, [vocab_size]; waits for the monitor.

        Raises:
            ConstraintBroken: the monitor failed, or did not answer in time.
        """
        if self._mask is None:
            words = self._required()
            self._mask = self._tokens.free if words is None else self._tokens.spelling(words)
        return self._mask

    def advance(self, token: int) -> "MonitoredState":
        """Return the state after one more token; it asks the monitor if need be.

        Raises:
            ConstraintBroken: the token may not follow, or the monitor failed.
        """
        text = self._tokens.spelled[token] if 0 <= token < len(self._tokens.spelled) else None
        if not text or not self.mask()[token]:
            raise ConstraintBroken(f"the monitor does not allow token {token} here")
        words = self._required()
        if words is not None:
            left = frozenset(word[len(text) :] for word in words if word.startswith(text))
            words = left or None
        return MonitoredState(self._tokens, self._ask, self._text + text, words=words)

    def forced(self) -> tuple[int, ...]:
        """Return nothing: monitors seldom force, and are not asked for it."""
        return ()

    def completion(self, most: int) -> tuple[int, ...] | None:  # noqa: ARG002
        """Return that nothing is missing, or None within a word."""
        return () if self.is_complete else None

    def _required(self) -> Words | None:
        return self._words if self._answer is None else self._answer.wait()


def ends_word(text: bytes) -> bool:
    """Return whether a text begins with what is part of no word."""
    return bool(text) and not (text[:1].isalnum() or text[:1] == b"_" or text[0] >= 0x80)
