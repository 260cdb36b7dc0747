import random
import string

import numpy as np
import pytest
import tokenizers
from llguidance import LLMatcher, LLParserLimits
from tokenizers import decoders, models, pre_tokenizers

from parallel.decoding.constraint import ConstraintBroken
from parallel.decoding.types import ConstraintKind, ConstraintSpec
from runtime.constraints.compilation import TokenizerText, compiled, open_tokenizer
from runtime.constraints.grammar_state import GrammarState, KnownTokens
from runtime.constraints.grammar_text import grammar_text
from tests.support.automata import (
    AutomatonState,
    Language,
    any_of,
    either,
    many,
    seq,
    text,
    times,
)

END = 0
NUM_TOKENS = 2000
PADDING = 8
"""Tokens that the model has beyond those of its tokenizer."""
DIGITS, LETTERS = any_of(string.digits), any_of(string.ascii_lowercase)
WIDE = text("é")
"""A character of two bytes, which tokens split."""

SCHEMA = """{
  "type": "object",
  "properties": {
    "name": {"type": "string", "pattern": "^[a-z]{1,4}$"},
    "tags": {"type": "array", "items": {"enum": ["a", "bé", true, 12]}, "maxItems": 3},
    "on": {"type": "boolean"}
  },
  "required": ["name", "tags"],
  "additionalProperties": false,
  "x-guidance": {"whitespace_flexible": false}
}"""
ITEM = either(text('"a"'), text('"bé"'), text("true"), text("12"))
ITEMS = either(text("[]"), seq(text("["), ITEM, times(seq(text(","), ITEM), 0, 2), text("]")))
OBJECT = seq(
    text('{"name":"'),
    times(LETTERS, 1, 4),
    text('","tags":'),
    ITEMS,
    either(text("}"), seq(text(',"on":'), either(text("true"), text("false")), text("}"))),
)
CHOICES = ("yes", "yes, but", "no", 'n"\\é\n')
LIST = 'start: item ("," item)*\nitem: /[0-9]+/ | "é" | "x"+\n'
ENTRY = either(seq(DIGITS, many(DIGITS)), WIDE, seq(text("x"), many(text("x"))))
CASES: dict[str, tuple[ConstraintSpec, Language]] = {
    "regex": (
        ConstraintSpec(kind=ConstraintKind.REGEX, text="-?(0|[1-9][0-9]{0,3})( (kg|é|m))*"),
        seq(
            either(text("-"), text("")),
            either(text("0"), seq(any_of("123456789"), times(DIGITS, 0, 3))),
            many(seq(text(" "), either(text("kg"), WIDE, text("m")))),
        ),
    ),
    "schema": (ConstraintSpec(kind=ConstraintKind.JSON_SCHEMA, text=SCHEMA), OBJECT),
    "choice": (
        ConstraintSpec(kind=ConstraintKind.CHOICE, choices=CHOICES),
        either(*map(text, CHOICES)),
    ),
    "grammar": (
        ConstraintSpec(kind=ConstraintKind.GRAMMAR, text=LIST),
        seq(ENTRY, many(seq(text(","), ENTRY))),
    ),
}


def byte_tokens() -> list[bytes | None]:
    """Every byte, and many short words of what the languages are made of."""
    rng = random.Random(5)
    pieces = ['{"', '":', '",', "name", "tags", "on", "true", "false", "é", "é"[:1], "12", "kg"]
    pieces += [*'0123456789-,[]{}" xabmy', " m", "yes", ", but", "no", '["', '"]', "]}"]
    words = {bytes([byte]) for byte in range(256)}
    while len(words) < NUM_TOKENS - 1:
        word = "".join(rng.choices(pieces, k=rng.randint(1, 4))).encode()
        words.add(word[rng.choice((0, 0, 1)) :] or b"{")
        words.add(word + bytes([rng.choice((0xC3, 0xA9))]))
    return [None, *sorted(words)[: NUM_TOKENS - 1]]


def tokenizer_of(tokens: list[bytes | None]) -> TokenizerText:
    """Write the tokens as a byte-level tokenizer."""
    known = pre_tokenizers.ByteLevel.alphabet()
    plain = [byte for byte in range(256) if chr(byte) in known]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain}
    letters |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    names = ["<end>", *("".join(letters[byte] for byte in word or b"") for word in tokens[1:])]
    inner = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<end>"])
    return TokenizerText(
        definition=inner.to_str(), vocab_size=len(tokens) + PADDING, end_ids=(END,)
    )


@pytest.fixture(scope="module")
def tokens() -> list[bytes | None]:
    return byte_tokens()


def start(spec: ConstraintSpec, tokens: list[bytes | None]) -> GrammarState:
    known = tokenizer_of(tokens)
    opened = KnownTokens(open_tokenizer(known), known.vocab_size, known.end_ids)
    return GrammarState(compiled(grammar_text(spec), opened.tokenizer), opened)


@pytest.mark.parametrize("case", CASES)
def test_masks_equal_those_of_a_reference_automaton(case: str, tokens: list[bytes | None]) -> None:
    spec, language = CASES[case]
    begin = start(spec, tokens)
    reference = AutomatonState(language, (*tokens, *[None] * PADDING))
    rng = random.Random(3)
    num_prefixes = num_differences = 0
    while num_prefixes < 50:
        state, expected = begin, reference
        for _ in range(rng.randint(1, 12)):
            legal = expected.mask()
            num_differences += int((state.mask() != legal).sum())
            num_differences += state.is_complete != expected.is_complete
            num_prefixes += 1
            if not legal.any():
                break
            token = int(rng.choice(legal.nonzero()[0]))
            state, expected = state.advance(token), expected.advance(token)
    assert num_differences == 0


def test_a_state_stays_as_it_is_when_others_follow_it(tokens: list[bytes | None]) -> None:
    begin = start(CASES["schema"][0], tokens)
    before = begin.mask().copy()
    one = begin.advance(tokens.index(b"{"))
    for token in one.mask().nonzero()[0]:
        one.advance(int(token)).mask()
    with pytest.raises(ConstraintBroken):
        one.advance(tokens.index(b"}"))
    assert np.array_equal(begin.mask(), before)
    assert begin.advance(tokens.index(b'{"')).mask()[tokens.index(b"n")]
    assert one.mask()[tokens.index(b'"')]


def test_an_end_token_or_one_in_no_text_never_follows(tokens: list[bytes | None]) -> None:
    state = start(CASES["choice"][0], tokens).advance(tokens.index(b"n"))
    state = state.advance(tokens.index(b"o"))
    assert state.is_complete
    assert not state.mask().any()
    for token in (END, len(tokens) + 1, len(tokens) + PADDING, -1):
        with pytest.raises(ConstraintBroken, match="does not allow token"):
            state.advance(token)


def test_forced_tokens_are_those_that_must_follow(tokens: list[bytes | None]) -> None:
    state = start(ConstraintSpec(kind=ConstraintKind.CHOICE, choices=("q7z",)), tokens)
    spelled = b""
    while not state.is_complete:
        forced = state.forced()
        assert forced
        for token in forced:
            spelled += tokens[token] or b""
            state = state.advance(token)
    assert spelled == b"q7z"
    assert state.forced() == ()


def test_a_limit_that_a_mask_reaches_is_an_error_and_not_an_open_mask(
    tokens: list[bytes | None],
) -> None:
    known = tokenizer_of(tokens)
    opened = KnownTokens(open_tokenizer(known), known.vocab_size, known.end_ids)
    matcher = LLMatcher(
        opened.tokenizer,
        LLMatcher.grammar_from_regex("([ab]*a[ab]{20}){3}"),
        log_level=0,
        limits=LLParserLimits(step_lexer_fuel=1),
    )
    state = GrammarState(matcher, opened)
    with pytest.raises(ConstraintBroken, match="a limit of constraints is reached"):
        state.mask()
