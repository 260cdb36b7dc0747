"""A vocabulary of bytes and short words, and constraints on it with their languages."""

import random
import string

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from parallel.decoding.types import ConstraintKind, ConstraintSpec
from runtime.constraints.compilation import TokenizerText
from runtime.constraints.model_tokens import ModelTokens
from tests.support.automata import Language, any_of, either, many, seq, text, times

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


def model_tokens_of(tokens: list[bytes | None]) -> ModelTokens:
    """Return the tokens as a model's."""
    text = tokenizer_of(tokens)
    spelled = [*tokens, *[None] * PADDING]
    return ModelTokens(
        text=text, spell=lambda token: spelled[token] or b"", drops_first_space=False
    )
