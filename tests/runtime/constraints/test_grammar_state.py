import random

import numpy as np
import pytest
from llguidance import LLMatcher, LLParserLimits

from parallel.decoding.constraint import ConstraintBroken
from parallel.decoding.types import ConstraintKind, ConstraintSpec
from runtime.constraints.compilation import compiled, open_tokenizer
from runtime.constraints.grammar_state import GrammarState, KnownTokens
from runtime.constraints.grammar_text import grammar_text
from tests.support.automata import AutomatonState
from tests.support.byte_vocabulary import CASES, END, PADDING, byte_tokens, tokenizer_of


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


def test_states_after_the_same_tokens_share_their_mask(tokens: list[bytes | None]) -> None:
    begin = start(CASES["schema"][0], tokens)
    one, other = (begin.advance(tokens.index(b'{"')) for _ in range(2))
    assert one.mask() is other.mask()
    assert begin.advance(tokens.index(b"{")).mask() is not one.mask()


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
