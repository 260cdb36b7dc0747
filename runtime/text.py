"""Text to tokens and back: a model's tokenizer, streaming, stop strings.

What transformers' AutoTokenizer makes of a directory is the truth for ids, text and chat.
"""

import hashlib
import importlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import ConfigError
from runtime.models.chat_template import MARK, ChatTemplate, Message

_FILES = "runtime.models.tokenizer_files"
"""Imported when a tokenizer is loaded: transformers takes 1.8 s (2026-11-29), and most ranks have
no text."""
_REPLACEMENT = "\ufffd"
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONG = 4096
"""Characters from which a text is encoded without holding Python's lock."""


class Tokenizer:
    """A model's tokenizer; safe to use from several threads."""

    def __init__(self, inner: Any, *, eos_ids: frozenset[int], name: str) -> None:
        self._inner = inner.backend_tokenizer
        self._special_eos_id: int | None = inner.eos_token_id
        self._cleans = _cleans(inner)
        self._clean = inner.clean_up_tokenization
        self._chat = ChatTemplate(inner, name)
        self._name = name
        self.eos_ids = eos_ids

    @classmethod
    def load(cls, directory: Path | str) -> "Tokenizer":
        """Read the tokenizer files of a checkpoint.

        Raises:
            ConfigError: they are missing, cannot be read, or need code of their own.
        """
        folder = Path(directory)
        files = importlib.import_module(_FILES)
        inner = files.load_fast_tokenizer(folder)
        return cls(inner, eos_ids=files.read_end_tokens(folder, inner), name=str(folder))

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token with its id."""
        known: dict[str, int] = self._inner.get_vocab(with_added_tokens=True)
        return known

    @property
    def digest(self) -> str:
        """Digest of the vocabulary: equal where tokens mean the same."""
        tokens = json.dumps(sorted(self.vocabulary.items()), separators=(",", ":"))
        return hashlib.sha256(tokens.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def eos_id(self) -> int | None:
        """The token to put after a text: the tokenizer's own, else the only end token there is.

        Raises:
            ConfigError: the model has several end tokens and the tokenizer names none.
        """
        if self._special_eos_id is not None or not self.eos_ids:
            return self._special_eos_id
        if len(self.eos_ids) > 1:
            raise ConfigError(
                f"{self._name} has the end tokens {sorted(self.eos_ids)}, and its tokenizer does "
                "not say which one ends a text: set eos_token in tokenizer_config.json"
            )
        return next(iter(self.eos_ids))

    def encode(self, text: str, *, whole: bool = True) -> list[int]:
        """Return the tokens of a text; if it is whole, with the special ones put around it.

        Raises:
            ConfigError: the text is not Unicode, or the tokenizer has no tokens for it.
        """
        half = None if text.isascii() else _SURROGATE.search(text)
        if half is not None:
            raise ConfigError(
                f"the text holds half a surrogate pair ({half[0]!a} at character "
                f"{half.start()}), which is not a character: remove it"
            )
        try:
            if len(text) < _LONG:
                encoding = self._inner.encode(text, add_special_tokens=whole)
            else:
                encoding = self._inner.encode_batch_fast([text], add_special_tokens=whole)[0]
        except Exception as error:  # tokenizers raises nothing narrower
            raise ConfigError(f"{self._name} has no tokens for the text: {error}") from error
        ids: list[int] = encoding.ids
        return ids

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens of a conversation, up to where the assistant speaks.

        Raises:
            ConfigError: the model has no chat template, or it refuses the conversation.
        """
        return self.encode(self.render_chat(messages), whole=False)

    def encode_user_opening(self) -> list[int]:
        """Return the tokens of a conversation up to where its first user speaks.

        Raises:
            ConfigError: the model has no chat template.
        """
        opening = self.render_chat([{"role": "user", "content": MARK}]).partition(MARK)[0]
        return self.encode(opening, whole=False)

    def render_chat(self, messages: Sequence[Message], *, is_open: bool = True) -> str:
        """Return a conversation as text, up to where the assistant speaks if it is open.

        Raises:
            ConfigError: the model has no chat template, or it refuses the conversation.
        """
        return self._chat.render(messages, is_open=is_open)

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of tokens, special ones left out."""
        text: str = self._inner.decode(list(token_ids), skip_special_tokens=True)
        return self._clean(text) if self._cleans else text


def check_same_vocabulary(target: Tokenizer, drafter: Tokenizer) -> None:
    """Refuse a drafter whose tokens mean something else than the target's.

    Raises:
        ConfigError: the vocabularies differ; names the first token that does.
    """
    mine, theirs = target.vocabulary, drafter.vocabulary
    if mine == theirs:
        return
    differing = sorted(
        token for token in mine.keys() | theirs.keys() if mine.get(token) != theirs.get(token)
    )
    token = differing[0]
    raise ConfigError(
        f"the drafter has another vocabulary: {len(differing)} tokens differ, as {token!r}, "
        f"which is {mine.get(token)} for the target and {theirs.get(token)} for the drafter; "
        "take a drafter of the target's family, target:layers=..., or ngram"
    )


class IncrementalDecoder:
    """Turns tokens into text as they come, never splitting a character.

    The pieces joined with `finish` are the text of all tokens decoded at once.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._token_ids: list[int] = []
        self._context = 0
        self._done = 0
        self.held = ""
        """Whole characters of the last tokens that are held back with a part of the next one."""

    def push(self, token_ids: Iterable[int]) -> str:
        """Take tokens and return the text that is certain by now."""
        pieces: list[str] = []
        for token in token_ids:
            self._token_ids.append(token)
            pieces.append(self._advance())
        return "".join(pieces)

    def finish(self) -> str:
        """Return what was held back."""
        before = self._tokenizer.decode(self._token_ids[self._context : self._done])
        text = self._tokenizer.decode(self._token_ids[self._context :])
        self._context = self._done = len(self._token_ids)
        return text[len(before) :]

    def _advance(self) -> str:
        # Decoding is not a sum over tokens: a piece is the difference that the new tokens make
        # after some tokens of context.
        before = self._tokenizer.decode(self._token_ids[self._context : self._done])
        text = self._tokenizer.decode(self._token_ids[self._context :])
        if text.endswith(_REPLACEMENT) or len(text) <= len(before):
            self.held = text[len(before) :].rstrip(_REPLACEMENT)
            return ""
        self.held = ""
        self._context, self._done = self._done, len(self._token_ids)
        return text[len(before) :]


class StopMatcher:
    """Finds the first token with which a text contains one of some strings."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._decoder = IncrementalDecoder(tokenizer)
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._tail = ""

    def push(self, token: int) -> bool:
        """Take the next token and return whether the text contains a stop string now."""
        self._tail += self._decoder.push((token,))
        text = self._tail + self._decoder.held
        found = any(stop in text for stop in self._stops)
        self._tail = self._tail[-self._longest :] if self._longest else ""
        return found


def _cleans(inner: Any) -> bool:
    """Whether transformers removes spaces before punctuation from what the tokenizer decodes."""
    is_bpe = type(inner.backend_tokenizer.model).__name__ == "BPE"
    even_so = getattr(
        inner, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False
    )
    return bool(inner.clean_up_tokenization_spaces and (even_so or not is_bpe))
