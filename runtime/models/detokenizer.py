"""Convert a stream of tokens to text, in linear time."""

import codecs
import re
from collections.abc import Iterable

from runtime.models.decoding import Decoding, Joint
from runtime.models.text_stages import TextStage, Utf8, finish_through, push_through

_REPLACEMENT = "\ufffd"
_CHUNK = 256
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_characters() -> dict[str, str]:
    """Return the bytes that the characters of a byte-level vocabulary encode, as Latin-1.

    GPT-2's table: printable bytes are themselves, the others follow at 256.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(b): chr(b) for b in printable} | {
        chr(256 + number): chr(byte) for number, byte in enumerate(others)
    }


_BYTES = _byte_characters()


class Detokenizer:
    """Decodes one stream of tokens.

    The texts that `push` and `finish` return join to the text of all tokens decoded at once; text
    is returned as soon as no later token can change it.
    """

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._stages: list[TextStage] = [stage.copy() for stage in decoding.stages]
        self._is_first = True
        self._run = _ByteRun()

    def push(self, token_ids: Iterable[int]) -> str:
        """Add tokens and return the text that has become final."""
        return "".join([self._push(token) for token in token_ids])

    def finish(self) -> str:
        """Return the text that was held back."""
        return self._end_run() + finish_through(self._stages)

    def pending(self, limit: int) -> str:
        """Return the last characters, at most `limit`, of the text that is held back.

        Incomplete characters are left out.
        """
        if self._run.stages is None:
            return _held(self._stages)[-limit:]
        texts = [_held(self._run.stages)]
        size = len(texts[0])
        for text in reversed(self._run.texts):
            if size >= limit:
                break
            texts.append(text)
            size += len(text)
        return "".join(reversed(texts))[-limit:]

    def _push(self, token_id: int) -> str:
        token = self._decoding.token_of(token_id)
        if token is None or token in self._decoding.hidden:
            return ""
        piece = self._piece(token)
        if self._decoding.joint is Joint.FALLBACK:
            byte = _BYTE_TOKEN.fullmatch(piece)
            if byte is not None:
                return self._push_byte(int(byte[1], 16))
            return self._end_run() + push_through(self._stages, piece)
        return push_through(self._stages, piece)

    def _piece(self, token: str) -> str:
        is_first, self._is_first = self._is_first, False
        return _piece_of(self._decoding, token, is_first=is_first)

    def _push_byte(self, byte: int) -> str:
        """Add a byte of a run and return the text that has become final.

        One invalid byte turns each byte of the run into U+FFFD.
        """
        run = self._run
        if run.is_broken:
            return push_through(self._stages, _REPLACEMENT)
        if run.stages is None:
            run.stages = [stage.copy() for stage in self._stages]
        run.num_bytes += 1
        try:
            character = run.decoder.decode(bytes((byte,)))
        except UnicodeDecodeError:
            run.is_broken, run.stages = True, None
            return push_through(self._stages, _REPLACEMENT * run.num_bytes)
        if character:
            run.add(push_through(run.stages, character))
        return ""

    def _end_run(self) -> str:
        run = self._run
        if not run.num_bytes:
            return ""
        self._run = _ByteRun()
        if run.stages is None:
            return ""
        if run.decoder.getstate()[0]:  # it ends inside a character
            return push_through(self._stages, _REPLACEMENT * run.num_bytes)
        self._stages = run.stages
        return "".join(run.texts)


def token_bytes(decoding: Decoding, token_id: int) -> bytes:
    """Return what a token adds to a text that it does not begin; a special token is its name."""
    token = decoding.token_of(token_id)
    if token is None:
        return b""
    if token in decoding.hidden:
        return token.encode()
    piece = _piece_of(decoding, token, is_first=False)
    if decoding.joint is Joint.BYTES:
        return piece.encode("latin-1")
    byte = _BYTE_TOKEN.fullmatch(piece) if decoding.joint is Joint.FALLBACK else None
    return piece.encode() if byte is None else bytes((int(byte[1], 16),))


def _piece_of(decoding: Decoding, token: str, *, is_first: bool) -> str:
    """Return a token as the next part takes it: text, or for `Joint.BYTES` bytes as Latin-1."""
    if decoding.piece is not None:  # some parts treat the first token of a text differently
        token = decoding.piece.decode([token] if is_first else ["", token])
    match decoding.joint:
        case Joint.SPACES:
            return token if is_first else f" {token}"
        case Joint.BYTES:
            if all(character in _BYTES for character in token):
                return "".join([_BYTES[character] for character in token])
            return token.encode().decode("latin-1")
    return token


class _ByteRun:
    """Consecutive byte tokens, and their text if the run ends here."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self.num_bytes = 0
        self.is_broken = False
        self.texts: list[str] = []
        self.stages: list[TextStage] | None = None
        """The stages after these texts; None without a run, or after an invalid byte."""

    def add(self, text: str) -> None:
        """Append a text, in chunks, so that `pending` looks at few."""
        if self.texts and len(self.texts[-1]) < _CHUNK:
            self.texts[-1] += text
        else:
            self.texts.append(text)


def _held(stages: list[TextStage]) -> str:
    """Return the text that stages hold back, without incomplete characters."""
    if not stages or all(isinstance(stage, Utf8) for stage in stages):
        return ""
    ahead = [stage.copy() for stage in stages if not isinstance(stage, Utf8)]
    return finish_through(ahead)
