"""Search for a short text that completes an output, by the masks of single bytes.

A mask that the search has not seen is progress: texts that return to few known masks come first,
and among them short ones. Where many letters, digits or signs may follow, it tries one of each. A
search that finds nothing is followed by a walk, which takes what closes wherever that is legal. So
the shortest text, or every text, may be missed; what is found is checked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

COMPILE_STATES = 400
"""States that are looked at before an output begins."""
ROUND_STATES = 40
"""States that are looked at after a token, where what was found before it does not fit."""
_SPACES = (b" ", b"\t", b"\n", b"\r")
_TELLING = b"@./-;\"'}])>,:"
"""Signs that close, or separate."""
_CLOSING = b"\"}])'>,:"
"""In the order in which a walk prefers them."""
_FEW = 8
_LONGEST_WALK = 2000


@dataclass(frozen=True, slots=True)
class ByteTokens:
    """A tokenizer and the tokens that are one byte."""

    tokenizer: LLTokenizer
    ids: NDArray[np.int64]
    """[256], the token of each byte; -1 where there is none."""

    @classmethod
    def of(cls, tokenizer: LLTokenizer, vocab_size: int) -> "ByteTokens":
        """Find the tokens of a model."""
        ids = np.full(256, -1, dtype=np.int64)
        for token in range(vocab_size):
            if not tokenizer.is_special_token(token):
                spelled = tokenizer.decode_bytes([token])
                if len(spelled) == 1:
                    ids[spelled[0]] = token
        return cls(tokenizer, ids)


def completion_of(
    matcher: LLMatcher, tokens: ByteTokens, hint: tuple[int, ...], *, most: int, max_states: int
) -> tuple[int, ...] | None:
    """Return tokens that complete an output, or None if none are found.

    Args:
        matcher: after the output; it is not changed.
        tokens: of the model.
        hint: what completed a shorter output: often its end completes this one too.
        most: tokens in the answer.
        max_states: that a search looks at.
    """
    if matcher.is_accepting():
        return ()
    if hint and len(hint) <= most and _completes(matcher, hint):
        return hint
    text = tokens.tokenizer.decode_bytes(list(hint))
    for start in range(len(text)):
        found = _spelled(matcher, tokens, text[start:])
        if found is not None and len(found) <= most:
            return found
    if max_states and most:
        new = _shortest(matcher, tokens, max_states) or _walked(matcher, tokens)
        found = None if new is None else _spelled(matcher, tokens, new)
        if found is not None and len(found) <= most:
            return found
    return None


def _spelled(matcher: LLMatcher, tokens: ByteTokens, text: bytes) -> tuple[int, ...] | None:
    """Return the tokens of a text that completes the output; None if it does not."""
    by_bytes = [int(tokens.ids[byte]) for byte in text]
    for spelling in (tokens.tokenizer.tokenize_bytes(text), by_bytes):
        if -1 in spelling or tokens.tokenizer.decode_bytes(spelling) != text:
            continue
        if _completes(matcher, spelling):
            return tuple(spelling)
    return None


def _completes(matcher: LLMatcher, token_ids: Sequence[int]) -> bool:
    """Return whether the output is complete after some tokens, all of which may follow."""
    found = list(token_ids)
    if matcher.validate_tokens(found) < len(found):
        return False
    copy = matcher.deep_copy()
    return copy.consume_tokens(found) and copy.is_accepting()


@dataclass(order=True, slots=True)
class _Text:
    """A text and its place in the search: few returns first, then short ones."""

    num_returns: int
    """How often its mask was one that the search had seen."""
    size: int
    number: int
    text: bytes = field(compare=False)
    matcher: LLMatcher = field(compare=False)
    before: bytes = field(compare=False, default=b"")
    """The mask before its last byte."""
    num_alike: int = field(compare=False, default=0)
    """Bytes at its end that did not change the mask."""
    mask: bytes | None = field(compare=False, default=None)


def _shortest(matcher: LLMatcher, tokens: ByteTokens, max_states: int) -> bytes | None:
    """Return a short text that completes the output."""
    numbers = count()
    waiting = [_Text(0, 0, next(numbers), b"", matcher.deep_copy())]
    known: set[bytes] = set()
    expanded: set[tuple[bytes, int, int]] = set()
    while waiting:
        one = heappop(waiting)
        if one.mask is None:
            max_states -= 1
            if max_states < 0:
                return None
            one.mask = one.matcher.compute_bitmask()
            one.num_alike = one.num_alike + 1 if one.mask == one.before else 0
            if one.mask in known and one.text[-1:] in _SPACES:
                continue  # a space that changes nothing
            if one.mask in known:
                one.num_returns += 1
                heappush(waiting, one)
                continue
        kind = (one.mask, one.num_returns, one.num_alike)
        if kind in expanded or one.matcher.is_error():
            continue
        expanded.add(kind)
        known.add(one.mask)
        for byte in _worth_trying(_legal_bytes(one.mask, tokens.ids)):
            copy = one.matcher.deep_copy()
            if copy.consume_token(int(tokens.ids[byte])):
                text = one.text + bytes([byte])
                if copy.is_accepting():
                    return text
                place = (one.num_returns, len(text), next(numbers))
                heappush(waiting, _Text(*place, text, copy, one.mask, one.num_alike))
    return None


def _walked(matcher: LLMatcher, tokens: ByteTokens) -> bytes | None:
    """Return the text that closes what it can at once, and where it cannot, tries what is legal.

    As long as the mask stays the same, each byte is the next in the order of preference.
    """
    here, text, before, num_alike = matcher.deep_copy(), b"", b"", 0
    for _ in range(_LONGEST_WALK):
        mask = here.compute_bitmask()
        num_alike = num_alike + 1 if mask == before else 0
        before = mask
        order = _by_preference(_legal_bytes(mask, tokens.ids))
        if here.is_error() or not order:
            return None
        byte = order[num_alike % len(order)]
        if not here.consume_token(int(tokens.ids[byte])):
            return None
        text += bytes([byte])
        if here.is_accepting():
            return text
    return None


def _by_preference(legal: bytes) -> list[int]:
    """Return bytes in the order to try them: what closes, one of each kind, then the others."""
    closing = [byte for byte in _CLOSING if byte in legal]
    kinds: dict[str, list[int]] = {}
    for byte in legal:
        if byte not in closing:
            kinds.setdefault(_kind(byte), []).append(byte)
    letters, digits = kinds.pop("letter", []), kinds.pop("digit", [])
    signs = sorted(kinds.get("sign", []), key=lambda byte: _TELLING.find(byte) % 256)
    rest = [byte for kind in ("space", "wide") for byte in kinds.get(kind, [])]
    return [
        *closing,
        *letters[:1],
        *digits[:1],
        *signs,
        *letters[1:],
        *digits[1:],
        *rest,
    ]


def _legal_bytes(mask: bytes, byte_ids: NDArray[np.int64]) -> bytes:
    bits = np.frombuffer(mask, dtype=np.uint8)
    legal = (bits[byte_ids >> 3] >> (byte_ids & 7).astype(np.uint8)) & 1
    return bytes(np.flatnonzero(legal.astype(np.bool_) & (byte_ids >= 0)).astype(np.uint8))


def _worth_trying(legal: bytes) -> Iterator[int]:
    """Yield the bytes to try: all of a kind if they are few, else what closes and the first."""
    kinds: dict[str, list[int]] = {}
    for byte in legal:
        kinds.setdefault(_kind(byte), []).append(byte)
    if len(kinds) > 1:
        kinds.pop("wide", None)
    for kind, found in kinds.items():
        if kind == "space":
            yield found[-1]
        elif len(found) <= _FEW:
            yield from found
        elif kind == "sign":
            yield from [byte for byte in found if byte in _TELLING] or found[:_FEW]
        elif kind == "digit":
            yield from (found[0], found[-1])
        else:
            yield found[0]


def _kind(byte: int) -> str:
    if bytes([byte]) in _SPACES:
        return "space"
    letter = chr(byte)
    if letter.isdigit():
        return "digit"
    if byte >= 0x80:
        return "wide"
    return "letter" if letter.isalpha() else "sign"
