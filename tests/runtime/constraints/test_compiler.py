import queue
from collections.abc import Iterator
from functools import partial

import pytest

from parallel.decoding.types import ConstraintKind, ConstraintSpec
from runtime.constraints.compiler import Compiled, ConstraintCompiler
from runtime.constraints.grammar_state import GrammarState
from runtime.constraints.grammar_text import grammar_text
from runtime.constraints.model_tokens import model_tokens
from runtime.constraints.screening import Screening, TooLarge
from runtime.errors import InvalidValue
from tests.support.automata import walked
from tests.support.byte_vocabulary import byte_tokens, model_tokens_of, tokenizer_of
from tests.support.serving import toy_tokenizer

TOKENS = byte_tokens()


@pytest.fixture(scope="module")
def compiler() -> Iterator[ConstraintCompiler]:
    found = ConstraintCompiler(lambda: model_tokens_of(TOKENS))
    yield found
    found.close()


def regex(text: str) -> ConstraintSpec:
    return ConstraintSpec(kind=ConstraintKind.REGEX, text=text)


def schema(text: str) -> ConstraintSpec:
    return ConstraintSpec(kind=ConstraintKind.JSON_SCHEMA, text=text)


def ask(compiler: ConstraintCompiler, spec: ConstraintSpec) -> Compiled:
    answers: queue.SimpleQueue[Compiled] = queue.SimpleQueue()
    compiler.compile(spec, answers.put)
    return answers.get(timeout=60)


def problem(compiler: ConstraintCompiler, spec: ConstraintSpec) -> str:
    found = ask(compiler, spec)
    assert isinstance(found, InvalidValue)
    return str(found)


def test_a_constraint_is_compiled_once_for_all_who_state_the_same(
    compiler: ConstraintCompiler,
) -> None:
    first = ask(compiler, regex("a+b"))
    assert isinstance(first, GrammarState)
    assert ask(compiler, regex("a+b")) is first
    assert ask(compiler, regex("a+c")) is not first
    assert walked(first, [TOKENS.index(b"a"), TOKENS.index(b"b")]).is_complete


PROPERTY = '{"properties": {"a/b": {"items": [%s]}}}'


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (schema('{"type": "text"}'), "#/type: Invalid type: text"),
        (schema(PROPERTY % '{"contains": {}}'), "#/properties/a~1b/items/0/contains: the keyword"),
        (schema('{"anyOf": [{"$ref": "#/nope"}]}'), "#/anyOf/0/$ref: Pointer '/nope' does not"),
        (schema('{"pattern": "[a", "type": "string"}'), "#/pattern: unclosed character class"),
        (schema('{"oneOf": [{}, {"minimum": 3}]}'), "#/oneOf: oneOf is not supported: write anyOf"),
        (schema('{"not": {}, "x-guidance": {"lenient": true}}'), "#/not: the keyword not is not"),
        (schema('{"type": "object", "type": 1}'), "'type'"),
        (schema("{"), "not JSON"),
        (regex("ab[c"), "unclosed character class, at character 2"),
        (regex("(?=a)b"), "look-around"),
        (ConstraintSpec(kind=ConstraintKind.GRAMMAR, text='start: "a"\n  b'), "line 2, column"),
        (ConstraintSpec(kind=ConstraintKind.GRAMMAR, text='begin: "a"'), "no start rule"),
    ],
)
def test_what_cannot_be_compiled_is_named_with_its_place(
    compiler: ConstraintCompiler, spec: ConstraintSpec, expected: str
) -> None:
    text = problem(compiler, spec)
    assert text.startswith(f"`{spec.kind}` cannot be used as a constraint: ")
    assert expected in text
    assert "\n" not in text


def test_a_grammar_that_overflows_the_stack_ends_the_screening_process_alone(
    compiler: ConstraintCompiler,
) -> None:
    rules = "\n".join(f'a{n}: a{n + 1} "b"' for n in range(4000))
    deep = ConstraintSpec(kind=ConstraintKind.GRAMMAR, text=f'start: a0\n{rules}\na4000: "a"\n')
    assert "takes too much stack or memory" in problem(compiler, deep)
    assert isinstance(ask(compiler, regex("still [a-z]+")), GrammarState)


def test_a_tokenizer_that_has_no_bytes_is_refused_by_name() -> None:
    refused = ConstraintCompiler(
        partial(model_tokens, toy_tokenizer(), vocab_size=48, end_ids=(0,))
    )
    try:
        assert "the model's tokenizer does not support constraints" in problem(refused, regex("a"))
    finally:
        refused.close()


def test_a_grammar_that_takes_too_long_is_given_up() -> None:
    screening, tokenizer = Screening(), tokenizer_of(TOKENS)
    try:
        screening.check(grammar_text(regex("a|b")), tokenizer)
        screening.compile_timeout_s = 0.0
        with pytest.raises(TooLarge, match="takes more than 0 s"):
            screening.check(grammar_text(regex("a|b")), tokenizer)
        screening.compile_timeout_s = 60.0
        screening.check(grammar_text(regex("a|b")), tokenizer)
    finally:
        screening.close()
