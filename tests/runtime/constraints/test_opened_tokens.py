"""Tokenizers in SentencePiece's manner, against brute force over the bytes that are shown."""

import random
import re
import string
from pathlib import Path

import pytest
from tokenizers import decoders

from parallel.decoding.types import ConstraintKind, ConstraintSpec
from runtime.constraints.grammar_text import grammar_text
from runtime.constraints.model_tokens import model_tokens
from runtime.constraints.opened_tokens import OpenedTokens
from runtime.models.tokenizer import Tokenizer
from tests.support.automata import (
    AutomatonState,
    Language,
    after_word,
    any_of,
    either,
    many,
    seq,
    text,
    times,
)
from tests.support.tokenizer_layouts import sentencepiece, write

UNKNOWN, BOS, EOS = range(3)
LETTERS, DIGITS = any_of(string.ascii_lowercase), any_of(string.digits)
CASES: dict[str, Language] = {
    "[a-z]{3,6}( é[0-9]|,)*": seq(
        times(LETTERS, 3, 6), many(either(seq(text(" é"), DIGITS), text(",")))
    ),
    " [a-z]{2,5}( the)?": seq(text(" "), times(LETTERS, 2, 5), either(text(""), text(" the"))),
    "  ?fox|the": either(text(" fox"), text("  fox"), text("the")),
}
"""Languages of regular expressions, by expression."""


def loaded(folder: Path, kind: str) -> Tokenizer:
    write(folder, sentencepiece(kind))
    return Tokenizer.load(folder)


def pieces_of(tokenizer: Tokenizer) -> list[bytes | None]:
    """The bytes of each token by the rules of SentencePiece; None for a special one."""
    names = {token: name for name, token in tokenizer.vocabulary.items()}
    found: list[bytes | None] = [None] * len(names)
    for token, name in names.items():
        if re.fullmatch("<0x[0-9A-F]{2}>", name):
            found[token] = bytes.fromhex(name[3:5])
        elif token > EOS:
            found[token] = name.replace("▁", " ").encode()
    return found


@pytest.mark.parametrize("expression", CASES)
@pytest.mark.parametrize("kind", ["legacy", "first", "never"])
def test_masks_equal_those_of_the_bytes_that_are_shown(
    tmp_path: Path, kind: str, expression: str
) -> None:
    tokenizer = loaded(tmp_path, kind)
    pieces, language = pieces_of(tokenizer), CASES[expression]
    tokens = model_tokens(tokenizer, vocab_size=len(pieces), end_ids=(EOS,))
    assert tokens.drops_first_space == (kind != "never")
    spec = ConstraintSpec(kind=ConstraintKind.REGEX, text=expression)
    begin = OpenedTokens(tokens).start(grammar_text(spec))
    shown = pieces
    if tokens.drops_first_space:
        shown = [piece and piece.removeprefix(b" ") for piece in pieces]
    rng = random.Random(7)
    for _ in range(12):
        state, expected, output = begin, language, list[int]()
        while True:
            here = shown if not output else pieces
            legal = [
                piece is not None and after_word(expected, piece) is not None for piece in here
            ]
            assert state.mask().tolist() == legal
            assert state.is_complete == AutomatonState(expected, ()).is_complete
            choices = [token for token, is_legal in enumerate(legal) if is_legal]
            if not choices or (state.is_complete and rng.random() < 0.3):
                break
            output.append(rng.choice(choices))
            state = state.advance(output[-1])
            expected = after_word(expected, here[output[-1]] or b"")
        if state.is_complete:
            assert re.fullmatch(expression, tokenizer.decode(output))


def test_bytes_that_llguidance_reads_otherwise_are_refused_by_the_token(tmp_path: Path) -> None:
    inner = sentencepiece("never")
    inner.decoder = decoders.Sequence(
        [decoders.Metaspace("▁", "never"), decoders.ByteFallback(), decoders.Fuse()]
    )
    write(tmp_path, inner)
    tokenizer = Tokenizer.load(tmp_path)
    tokens = model_tokens(tokenizer, vocab_size=len(tokenizer.vocabulary), end_ids=(EOS,))
    with pytest.raises(ValueError, match=r"reads token \d+ as b'\\xe2\\x96\\x81', and it is b' '"):
        OpenedTokens(tokens)
