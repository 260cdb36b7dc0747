"""Split a tokenizer's decoder into stages that work on a stream of tokens.

A decoder is a list of parts: some change one token at a time, one may join bytes, the rest work on
the joined text. Parts that cannot stream are rejected by name.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tokenizers import decoders

from runtime.errors import ConfigError
from runtime.files.strict_json import parse_json
from runtime.models.text_stages import Replacing, Stripping, TextStage, Utf8

_OF_ONE_TOKEN = ("Replace", "Strip", "Metaspace", "WordPiece")
_CLEANING = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
"""Where transformers' clean_up_tokenization removes spaces, in its order."""


class Joint(Enum):
    """How pieces become text."""

    TEXT = "one after the other"
    SPACES = "with spaces between"
    BYTES = "as the bytes that their characters encode"
    FALLBACK = "with runs of <0x..> pieces as bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How tokens become text; shared by all streams of a tokenizer."""

    token_of: Callable[[int], str | None]
    hidden: frozenset[str]
    """Special tokens, which are not part of the text."""
    piece: Any = None
    """The tokenizers library's decoder for one token at a time; None: tokens are unchanged."""
    joint: Joint
    stages: tuple[TextStage, ...] = ()
    """The stages of the joined text, to copy for each stream."""


def read_decoding(inner: Any, *, cleans: bool, name: str) -> Decoding:
    """Return the stages of a tokenizer's decoder.

    Args:
        inner: a tokenizer of the tokenizers library.
        cleans: whether spaces before punctuation are removed at the end.
        name: the tokenizer's name in an error.

    Raises:
        ConfigError: the decoder has a part that cannot work on a stream.
    """
    parts = (
        []
        if inner.decoder is None
        else _flat(parse_json(inner.decoder.__getstate__().decode(), name))
    )
    size = next(
        (i for i, part in enumerate(parts) if part["type"] not in _OF_ONE_TOKEN), len(parts)
    )
    joint = Joint.SPACES if inner.decoder is None else Joint.TEXT
    rest = parts[size:]
    if rest and rest[0]["type"] in ("ByteLevel", "ByteFallback"):
        joint = Joint.BYTES if rest[0]["type"] == "ByteLevel" else Joint.FALLBACK
        rest = rest[1:]
    if joint is Joint.FALLBACK and rest and rest[0]["type"] != "Fuse":
        raise _unsupported(name, rest[0], "directly follows ByteFallback")
    stages: list[TextStage] = [Utf8()] if joint is Joint.BYTES else []
    stages += [stage for part in rest for stage in _stages(part, name)]
    if cleans:
        stages += [Replacing(old, old.replace(" ", "")) for old in _CLEANING]
    special = inner.get_added_tokens_decoder().values()
    return Decoding(
        token_of=inner.id_to_token,
        hidden=frozenset(token.content for token in special if token.special),
        piece=_decoder({"type": "Sequence", "decoders": parts[:size]}) if size else None,
        joint=joint,
        stages=tuple(stages),
    )


def _flat(part: dict[str, Any]) -> list[dict[str, Any]]:
    if part["type"] != "Sequence":
        return [part]
    return [one for inner in part["decoders"] for one in _flat(inner)]


def _stages(part: dict[str, Any], name: str) -> list[TextStage]:
    match part:
        case {"type": "Fuse"}:
            return []
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if old:
            return [Replacing(old, new)]
        case {"type": "Strip", "content": str(character), "start": int(start), "stop": int(stop)}:
            return [Stripping(character, start=start, stop=stop)]
    raise _unsupported(name, part, "works on the whole text")


def _unsupported(name: str, part: dict[str, Any], problem: str) -> ConfigError:
    return ConfigError(
        f"{name}: the decoder {json.dumps(part)} in tokenizer.json {problem}, which cannot be "
        "done while text streams: use a tokenizer with another decoder"
    )


def _decoder(state: dict[str, Any]) -> decoders.Decoder:
    decoder = decoders.Fuse()
    decoder.__setstate__(json.dumps(state).encode())  # the state sets the kind of decoder
    return decoder
