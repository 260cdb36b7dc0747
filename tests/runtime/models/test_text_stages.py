"""Stages of text on a stream, against the same work on the whole text."""

import random

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders

from runtime.models.text_stages import Replacing, Stripping, TextStage, Utf8


def streamed(stage: TextStage, pieces: list[str]) -> str:
    return "".join([stage.push(piece) for piece in pieces]) + stage.finish()


PIECES = st.lists(st.text(alphabet="ab ", max_size=4), max_size=6)


@given(PIECES, st.text(alphabet="ab ", min_size=1, max_size=4))
def test_replacing_in_pieces_is_replacing_in_the_whole(pieces: list[str], old: str) -> None:
    assert streamed(Replacing(old, "-"), pieces) == "".join(pieces).replace(old, "-")


@given(PIECES, st.integers(0, 2), st.integers(0, 2))
def test_stripping_in_pieces_is_what_tokenizers_strips(
    pieces: list[str], start: int, stop: int
) -> None:
    whole = "".join(pieces)
    if len(whole.strip(" ")) and whole[:1] + whole[-1:]:  # the library fails on spaces alone
        expected = decoders.Strip(" ", start, stop).decode([whole])
        assert streamed(Stripping(" ", start=start, stop=stop), pieces) == expected


def test_bytes_in_pieces_are_the_characters_that_tokenizers_makes() -> None:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (256 + number for number in range(256))
    shown = {byte: chr(byte if byte in printable else next(others)) for byte in range(256)}
    chance, library = random.Random(0), decoders.ByteLevel()
    edges = [0x41, 0x80, 0xBF, 0xC1, 0xC2, 0xE0, 0xA0, 0x9F, 0xED, 0xF0, 0x90, 0x8F, 0xF4, 0xFF]
    for _ in range(2000):
        given_bytes = [chance.choice(edges) for _ in range(chance.randrange(8))]
        expected = library.decode(["".join(shown[byte] for byte in given_bytes)])
        assert streamed(Utf8(), [chr(byte) for byte in given_bytes]) == expected


def test_what_can_no_longer_change_is_not_held_back() -> None:
    stage = Replacing(" n't", "n't")
    assert [stage.push(piece) for piece in ("do", " n", "o", " n'", "t")] == [
        "do",
        "",
        " no",
        "",
        "n't",
    ]
    assert [Utf8().push(piece) for piece in ("\x80", "\xff", "A")] == ["\ufffd", "\ufffd", "A"]
