"""Tokens spell the words that a monitor names, and no others."""

from dataclasses import dataclass

import pytest

from parallel.decoding.constraint import ConstraintBroken
from parallel.decoding.monitored import MonitoredState, MonitoredTokens, Words, ends_word

TEXTS = (
    *(None, b".", b"append", b"add", b"a", b"ad", b"d", b"p", b"pend", b"(", b"(1", b"add("),
    *(b"append(x.", b".add", b"add.", b"add.d", b"..", b". ", b" ", b"x", b"_", b"adds", b"\xc3"),
)
TOKENS = MonitoredTokens(TEXTS, b".")


@dataclass
class Given:
    words: Words | None
    is_late: bool = False

    def wait(self) -> Words | None:
        if self.is_late:
            raise ConstraintBroken("the monitor m did not answer within 5 s")
        return self.words

    def known(self) -> Words | None:
        return frozenset() if self.is_late else self.words


def state(text: bytes, *words: bytes, asked: list[bytes] | None = None) -> MonitoredState:
    def ask(about: bytes) -> Given:
        if asked is not None:
            asked.append(about)
        return Given(frozenset(words) if words else None)

    return MonitoredState(TOKENS, ask, text)


def legal(found: MonitoredState) -> set[bytes]:
    return {TEXTS[token] or b"" for token in found.mask().nonzero()[0]}


def by_definition(words: set[bytes]) -> set[bytes]:
    """Tokens that are the beginning of a word, or a word and then something that is none."""
    free = {text for text in TEXTS if text and not passes_by(text)}
    return {
        text
        for text in free
        for word in words
        if word.startswith(text) or (text.startswith(word) and ends_word(text[len(word) :]))
    }


def passes_by(text: bytes) -> bool:
    return any(
        text[place : place + 1] == b"." and not ends_word(text[place + 1 :]) and text[place + 1 :]
        for place in range(len(text))
    )


@pytest.mark.parametrize(
    "words", [{b"append", b"add"}, {b"add"}, {b"a", b"adds"}, {b"zebra"}, {b""}, {b"", b"d"}]
)
def test_the_mask_is_that_of_the_definition(words: set[bytes]) -> None:
    found = MonitoredState(TOKENS, lambda _: Given(None), b"x.", words=frozenset(words))
    assert legal(found) == by_definition(words)


def test_a_mask_names_these_tokens() -> None:
    assert legal(state(b"x.", b"append", b"add")) == {
        *(b"a", b"ad", b"add", b"append", b"add(", b"append(x.", b"add."),
    }


def test_nothing_is_constrained_until_the_trigger() -> None:
    asked: list[bytes] = []
    free = state(b"x", asked=asked)
    assert free.is_complete
    assert legal(free) == {text for text in TEXTS if text} - {b".add", b"add.d"}
    assert asked == []
    dotted = free.advance(TEXTS.index(b"."))
    assert asked == [b"x."]
    assert dotted.is_complete  # the monitor knows nothing of it
    assert legal(dotted) == legal(free)


def test_a_word_is_followed_to_its_end() -> None:
    asked: list[bytes] = []
    here = state(b"x.", b"append", b"add", asked=asked)
    assert not here.is_complete
    here = here.advance(TEXTS.index(b"a"))
    assert legal(here) == {b"d", b"p"}
    here = here.advance(TEXTS.index(b"d")).advance(TEXTS.index(b"d"))
    assert here.is_complete
    assert here.completion(9) == ()
    assert legal(here) == {b".", b"(", b"(1", b"..", b". ", b" "}
    free = here.advance(TEXTS.index(b"(1"))
    assert b"x" in legal(free)
    assert asked == [b"x."]
    again = here.advance(TEXTS.index(b"."))
    assert asked == [b"x.", b"x.add."]
    assert not again.is_complete
    assert again.completion(9) is None


def test_a_token_that_ends_a_word_and_has_a_trigger_asks_again() -> None:
    asked: list[bytes] = []
    here = state(b"x.", b"append", asked=asked)
    here.advance(TEXTS.index(b"append(x."))
    assert asked == [b"x.", b"x.append(x."]


def test_an_illegal_token_is_refused() -> None:
    here = state(b"x.", b"append")
    for text in (b"add", b".", b".add", None):
        with pytest.raises(ConstraintBroken, match="does not allow token"):
            here.advance(TEXTS.index(text))
    with pytest.raises(ConstraintBroken):
        here.advance(len(TEXTS))


def test_a_monitor_that_does_not_answer_is_reported_and_the_end_does_not_wait_for_it() -> None:
    here = MonitoredState(TOKENS, lambda _: Given(None, is_late=True), b"x.")
    assert not here.is_complete
    with pytest.raises(ConstraintBroken, match="did not answer within 5 s"):
        here.mask()


def test_monitors_force_nothing() -> None:
    assert state(b"x.", b"append").forced() == ()
