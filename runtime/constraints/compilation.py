"""Compile a grammar for a tokenizer within limits; both the leader and the screening process do."""

from dataclasses import dataclass

from llguidance import LLMatcher, LLParserLimits, LLTokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerText:
    """What llguidance needs of a model's tokenizer; travels to the screening process."""

    definition: str
    """The contents of tokenizer.json."""
    vocab_size: int
    """Of the model, whose last tokens may be in no text."""
    end_ids: tuple[int, ...]
    """The model's end tokens."""


def open_tokenizer(text: TokenizerText) -> LLTokenizer:
    """Return the tokenizer as llguidance reads it; takes a quarter of a second.

    Raises:
        ValueError: it has a part that llguidance does not support.
    """
    ends = list(text.end_ids) or None
    return LLTokenizer(text.definition, n_vocab=text.vocab_size, eos_token=ends)


def compiled(grammar: str, tokenizer: LLTokenizer) -> LLMatcher:
    """Return the matcher at the start of an output; its first mask has been computed once.

    Raises:
        ValueError: the grammar cannot be compiled, or a limit is reached.
    """
    limits = LLParserLimits(verbose_errors=False)  # no grammars in logs
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise ValueError(matcher.get_error().strip())
    return matcher
