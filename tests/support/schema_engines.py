"""Engines of JSON schemas, each by the same two questions: does it compile, and accept this text?

xgrammar and outlines-core are optional: `schema_coverage.py` skips those that are not installed.
"""

import importlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from parallel.decoding.constraint import ConstraintBroken
from parallel.decoding.types import ConstraintKind, ConstraintSpec
from runtime.constraints.compilation import TokenizerText, compiled, open_tokenizer
from runtime.constraints.grammar_state import GrammarState, KnownTokens
from runtime.constraints.grammar_text import grammar_text
from runtime.models.tokenizer import Tokenizer

Accepts = Callable[[str], bool]


class SchemaEngine(Protocol):
    """What is measured."""

    version: str
    reads: str
    """How it reads a text: token by token, or as a regular expression."""

    def compile(self, schema: Any) -> Accepts:
        """Return what decides about texts; raises any error if it cannot compile the schema."""
        ...


@dataclass
class Paceline:
    """This project's constraints, token by token."""

    tokenizer: Tokenizer
    vocab_size: int

    def __post_init__(self) -> None:
        ends = tuple(sorted(self.tokenizer.eos_ids))
        text = TokenizerText(
            definition=self.tokenizer.definition, vocab_size=self.vocab_size, end_ids=ends
        )
        self._tokens = KnownTokens(open_tokenizer(text), self.vocab_size, ends)
        self.version, self.reads = "this checkout", "tokens"

    def compile(self, schema: Any) -> Accepts:
        spec = ConstraintSpec(kind=ConstraintKind.JSON_SCHEMA, text=json.dumps(schema))
        start = GrammarState(compiled(grammar_text(spec), self._tokens.tokenizer), self._tokens)

        def accepts(text: str) -> bool:
            state = start
            try:
                for token in self.tokenizer.encode(text, whole=False):
                    state = state.advance(token)
            except ConstraintBroken:
                return False
            return state.is_complete

        return accepts


class XGrammar:
    """xgrammar, token by token, with any whitespace."""

    reads = "tokens"

    def __init__(self, tokenizer: Tokenizer, directory: Path, vocab_size: int) -> None:
        self._module: Any = importlib.import_module("xgrammar")
        self.version = version("xgrammar")
        theirs = importlib.import_module("transformers").AutoTokenizer.from_pretrained(directory)
        info = self._module.TokenizerInfo.from_huggingface(theirs, vocab_size=vocab_size)
        self._compiler = self._module.GrammarCompiler(info, max_threads=1)
        self._tokenizer = tokenizer
        self._end = min(tokenizer.eos_ids)

    def compile(self, schema: Any) -> Accepts:
        grammar = self._compiler.compile_json_schema(
            json.dumps(schema), any_whitespace=True, strict_mode=False
        )

        def accepts(text: str) -> bool:
            matcher = self._module.GrammarMatcher(grammar, override_stop_tokens=[self._end])
            tokens = self._tokenizer.encode(text, whole=False)
            return all(matcher.accept_token(token) for token in [*tokens, self._end])

        return accepts


class OutlinesCore:
    """outlines-core, by the regular expression that it makes of a schema.

    Its index of tokens takes seconds a schema, and accepts what the expression matches.
    """

    reads = "regular expression"

    def __init__(self) -> None:
        self._build: Any = importlib.import_module("outlines_core.json_schema")
        self.version = version("outlines-core")

    def compile(self, schema: Any) -> Accepts:
        expression = re.compile(self._build.build_regex_from_schema(json.dumps(schema)))
        return lambda text: expression.fullmatch(text) is not None
