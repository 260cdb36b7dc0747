"""Output as text: pieces join to the whole, and nothing shows from a stop string on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.requests.text_stream import TextStream, _Overlap
from tests.support.serving import toy_tokenizer

TOKENS = [11, 12, 1, 2, 31, 4]
WHOLE = "w11 w12 w1 w2 w31 w4"


def pieces(stops: list[str], sizes: tuple[int, ...]) -> list[str]:
    stream = TextStream(toy_tokenizer(), stops)
    found, first = [], 0
    for size in sizes:
        found.append(stream.push(TOKENS[first : first + size]))
        first += size
    return [*found, stream.finish()]


@pytest.mark.parametrize("sizes", [(6,), (1,) * 6, (2, 3, 1), (4, 0, 2)])
def test_pieces_join_to_the_text(sizes: tuple[int, ...]) -> None:
    assert toy_tokenizer().decode(TOKENS) == WHOLE
    assert "".join(pieces([], sizes)) == WHOLE
    assert "".join(pieces(["nowhere", "w4 w"], sizes)) == WHOLE


@pytest.mark.parametrize("sizes", [(6,), (1,) * 6, (2, 3, 1)])
@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        (["w2"], "w11 w12 w1 "),
        (["1 w2 w3"], "w11 w12 w"),
        (["w31", "12 w"], "w11 w"),
        (["w11"], ""),
        ([" w4"], "w11 w12 w1 w2 w31"),
    ],
)
def test_text_ends_before_the_first_stop_string(
    stops: list[str], expected: str, sizes: tuple[int, ...]
) -> None:
    found = pieces(stops, sizes)
    assert "".join(found) == expected
    shown = ""
    for piece in found:  # nothing was shown that had to be taken back
        shown += piece
        assert expected.startswith(shown)


@given(st.text("ab", min_size=1, max_size=8), st.lists(st.text("ab", max_size=4), max_size=8))
def test_the_overlap_is_the_longest_end_that_begins_a_stop_string(
    stop: str, added: list[str]
) -> None:
    overlap, text = _Overlap(stop), ""
    for piece in added:
        if stop in text + piece:
            break
        text += piece
        sizes = (n for n in range(len(stop)) if text.endswith(stop[:n]))
        assert overlap.push(piece) == max(sizes)
