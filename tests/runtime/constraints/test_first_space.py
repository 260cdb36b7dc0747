import pytest

from parallel.decoding.closing import completion
from parallel.decoding.constraint import ConstraintBroken
from runtime.constraints.first_space import SpacedStart, SpacedTokens
from tests.support.automata import AutomatonState, either, text

END, A, B, SPACE, SPACE_A, SPACE_AB, SPACE_B, SPACE_X = range(8)
TOKENS = (None, b"a", b"b", b" ", b" a", b" ab", b" b", b" \xff")
RESTS = {b"": [], b"a": [A], b"ab": [A, B], b"b": [B], b"\xff": None}


def start(*words: str) -> SpacedStart:
    language = either(*map(text, words))
    spaced = SpacedTokens(lambda token: TOKENS[token] or b"", range(1, 8), RESTS.__getitem__)
    return SpacedStart(AutomatonState(language, TOKENS), spaced)


def legal(words: tuple[str, ...]) -> list[int]:
    return start(*words).mask().nonzero()[0].tolist()


def test_the_first_token_begins_after_its_space() -> None:
    assert legal(("ab",)) == [A, SPACE, SPACE_A, SPACE_AB]
    assert legal(("b", "ac")) == [A, B, SPACE, SPACE_A, SPACE_B]


def test_a_text_that_begins_with_a_space_needs_another_one() -> None:
    assert legal((" ab",)) == [SPACE]
    after = start(" ab").advance(SPACE)
    assert after.mask().nonzero()[0].tolist() == [SPACE, SPACE_A, SPACE_AB]
    assert after.advance(SPACE_AB).is_complete


def test_later_tokens_are_what_they_are() -> None:
    after = start("ab", "a b").advance(SPACE_A)
    assert after.mask().nonzero()[0].tolist() == [B, SPACE, SPACE_B]
    assert not after.is_complete
    assert start("ab").advance(SPACE_AB).is_complete
    assert start("ab").advance(A).advance(B).is_complete


def test_illegal_first_tokens_are_refused_and_nothing_is_forced() -> None:
    begin = start("ab")
    for token in (B, SPACE_B, SPACE_X):
        with pytest.raises(ConstraintBroken):
            begin.advance(token)
    assert begin.forced() == ()
    assert completion(begin, 5) == completion(AutomatonState(text("ab"), TOKENS), 5)
    assert completion(start(" ab"), 5) is None
    assert not begin.is_complete
