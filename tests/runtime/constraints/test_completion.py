"""Completions of real grammars, on a tokenizer of bytes and of frequent pieces."""

import json
from functools import cache

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from parallel.decoding.types import ConstraintKind, ConstraintSpec
from runtime.constraints.compilation import TokenizerText, compiled, open_tokenizer
from runtime.constraints.completion import _by_preference, _worth_trying
from runtime.constraints.grammar_state import GrammarState, KnownTokens
from runtime.constraints.grammar_text import grammar_text

ANY = 2**31 - 1
ADDRESS = {
    "type": "object",
    "properties": {
        "street": {"type": "string", "minLength": 3},
        "city": {"enum": ["Ulm", "Paris"]},
        "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
        "tags": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
    },
    "required": ["street", "city", "zip", "tags"],
    "additionalProperties": False,
}
CASES = {
    "object": (ConstraintSpec(kind=ConstraintKind.JSON_OBJECT), "{}"),
    "regex": (
        ConstraintSpec(kind=ConstraintKind.REGEX, text="[a-z]{40}-[0-9]+!"),
        "a" * 40 + "-0!",
    ),
    "choice": (ConstraintSpec(kind=ConstraintKind.CHOICE, choices=("maybe not", "yes")), "yes"),
    "empty": (ConstraintSpec(kind=ConstraintKind.REGEX, text="a*"), ""),
    "wide": (ConstraintSpec(kind=ConstraintKind.REGEX, text="é{3}"), "ééé"),
    "grammar": (
        ConstraintSpec(
            kind=ConstraintKind.GRAMMAR,
            text='start: "begin " item+ " end"\nitem: /[0-9]+/ ";"\n',
        ),
        "begin 0; end",
    ),
    "schema": (
        ConstraintSpec(kind=ConstraintKind.JSON_SCHEMA, text=json.dumps(ADDRESS)),
        '{"street":"AAA","city":"Ulm","zip":"00000","tags":[0,0]}',
    ),
}


@cache
def known_tokens() -> KnownTokens:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([json.dumps(ADDRESS), "begin end yes maybe not"] * 9, trainer)
    text = TokenizerText(definition=inner.to_str(), vocab_size=400, end_ids=(0,))
    return KnownTokens(open_tokenizer(text), 400, (0,))


def start(spec: ConstraintSpec) -> GrammarState:
    tokens = known_tokens()
    return GrammarState(compiled(grammar_text(spec), tokens.tokenizer), tokens)


def shown(token_ids: tuple[int, ...] | None) -> str:
    assert token_ids is not None
    return known_tokens().tokenizer.decode_str(list(token_ids))


@pytest.mark.parametrize("name", CASES)
def test_the_completion_of_an_empty_output_is_short(name: str) -> None:
    spec, expected = CASES[name]
    state = start(spec)
    found = state.completion(ANY)
    assert found is not None
    text = shown(found)
    assert len(expected) <= len(text) <= len(expected) * 1.2
    for token in found:
        state = state.advance(token)
    assert state.is_complete
    assert state.completion(0) == ()


def test_a_completion_is_spelled_in_the_tokenizers_tokens() -> None:
    spec, text = CASES["schema"]
    found = start(spec).completion(ANY)
    assert found is not None
    assert len(found) < len(text) * 2 / 3
    assert start(spec).completion(len(found)) == found
    assert start(spec).completion(len(found) - 1) is None


@pytest.mark.parametrize("name", ["schema", "grammar", "object"])
def test_every_output_on_the_way_has_a_completion(name: str) -> None:
    spec, _ = CASES[name]
    texts = {
        "schema": '{"street": "12 Main Street", "city": "Paris", "zip": "75001", "tags": [1, 2]}',
        "grammar": "begin 12;345; end",
        "object": '{"a": [1, {"b": "c d", "e": null}], "f": 1.5e3}',
    }
    state = start(spec)
    state.completion(ANY)
    for token in known_tokens().tokenizer.tokenize_str(texts[name]):
        state = state.advance(token)
        found = state.completion(ANY)
        assert found is not None
        ahead = state
        for following in found:
            ahead = ahead.advance(following)
        assert ahead.is_complete


def test_an_output_that_no_short_search_completes_has_none() -> None:
    spec = ConstraintSpec(kind=ConstraintKind.REGEX, text="[a-z]{2100}!")
    assert start(spec).completion(ANY) is None


def test_the_bytes_that_a_search_tries_are_few_of_each_kind() -> None:
    assert bytes(_worth_trying(b"\n\r ")) == b" "
    assert bytes(_worth_trying(b'\t "}')) == b' "}'
    assert bytes(_worth_trying(b"0123456789")) == b"09"
    assert bytes(_worth_trying(b"012ab")) == b"012ab"
    every = bytes(range(0x20, 0x7F))
    assert set(_worth_trying(every)) == set(b" \"'}])>,:;@./-09A")
    assert bytes(_by_preference(b'ab1}" ')) == b'"}a1b '
