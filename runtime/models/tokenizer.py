"""A model's tokenizer: encoding, decoding, streaming and stop strings.

The reference for ids, text and chats is transformers' AutoTokenizer on the same directory.
"""

import hashlib
import importlib
import json
import re
from collections.abc import Iterable, Sequence
from copy import copy
from pathlib import Path

from runtime.errors import ConfigError
from runtime.models.chat_template import MARK, ChatTemplate, Message
from runtime.models.checkpoint import cache_directory
from runtime.models.decoding import read_decoding
from runtime.models.detokenizer import Detokenizer, token_bytes
from runtime.models.tokenizer_copy import LoadedTokenizer, copy_file, keep_copy, read_copy

_FILES = "runtime.models.tokenizer_files"
"""Imported when a tokenizer is loaded: with transformers that takes 2.5 s of CPU time beside torch
(2026-11-29), and most ranks handle no text."""
_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_STOP = 1000
"""The longest stop string, in characters; each new token is compared with all of them."""
_LONG = 4096
"""The length from which a text is encoded without holding Python's lock."""


class Tokenizer:
    """A model's tokenizer; safe to use from several threads."""

    def __init__(self, loaded: LoadedTokenizer, *, name: str) -> None:
        self._inner = loaded.backend
        self._special_eos_id = loaded.eos_token_id
        self._cleans = loaded.cleans
        self._chat = ChatTemplate(loaded.chat_template, loaded.special_tokens, name)
        self._name = name
        self.eos_ids = loaded.eos_ids
        self.decoding = read_decoding(self._inner, cleans=self._cleans, name=name)

    @classmethod
    def load(cls, directory: Path | str) -> "Tokenizer":
        """Read the tokenizer files of a checkpoint.

        Raises:
            ConfigError: files are missing, cannot be read, or need custom code.
        """
        folder = Path(directory)
        return cls(_load(folder), name=str(folder))

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every token with its id."""
        known: dict[str, int] = self._inner.get_vocab(with_added_tokens=True)
        return known

    @property
    def definition(self) -> str:
        """The contents of tokenizer.json, without padding and truncation."""
        inner = copy(self._inner)
        inner.no_padding()
        inner.no_truncation()
        text: str = inner.to_str()
        return text

    @property
    def digest(self) -> str:
        """The digest of the vocabulary."""
        tokens = json.dumps(sorted(self.vocabulary.items()), separators=(",", ":"))
        return hashlib.sha256(tokens.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def end_texts(self) -> tuple[str, ...]:
        """The end tokens as a chat template writes them."""
        texts = (self._inner.id_to_token(token) for token in sorted(self.eos_ids))
        return tuple(text for text in texts if text)

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text: the tokenizer's own, else the model's only end token.

        Raises:
            ConfigError: the model has several end tokens and the tokenizer names none.
        """
        if self._special_eos_id is not None or not self.eos_ids:
            return self._special_eos_id
        if len(self.eos_ids) > 1:
            raise ConfigError(
                f"{self._name} has the end tokens {sorted(self.eos_ids)}, and its tokenizer does "
                "not state which one ends a text: set eos_token in tokenizer_config.json"
            )
        return next(iter(self.eos_ids))

    def encode(self, text: str, *, whole: bool = True) -> list[int]:
        """Return the tokens of a text, with special tokens around it if it is whole.

        Raises:
            ConfigError: the text is not valid Unicode, or the tokenizer cannot encode it.
        """
        surrogate = None if text.isascii() else _SURROGATE.search(text)
        if surrogate is not None:
            raise ConfigError(
                f"the text holds half a surrogate pair ({surrogate[0]!a} at character "
                f"{surrogate.start()}), which is not a character: remove it"
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

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[Message] = ()) -> list[int]:
        """Return the tokens of a conversation, up to the assistant's turn.

        Args:
            messages: the conversation.
            tools: definitions of functions that the assistant may call, in OpenAI's form.

        Raises:
            ConfigError: the model has no chat template, or it rejects the conversation or a tool.
        """
        text = self._chat.render(messages, is_open=True, tools=tools)
        return self.encode(text, whole=False)

    @property
    def tool_template(self) -> str:
        """The chat template that renders tools; "" without one."""
        return self._chat.tool_source

    def encode_user_opening(self) -> list[int]:
        """Return the tokens of a conversation up to the user's first words.

        Raises:
            ConfigError: the model has no chat template.
        """
        opening = self.render_chat([{"role": "user", "content": MARK}]).partition(MARK)[0]
        return self.encode(opening, whole=False)

    def special_ids(self, texts: Iterable[str]) -> frozenset[int]:
        """Return the ids of the special tokens among some texts."""
        hidden = self.decoding.hidden
        ids = (self._inner.token_to_id(text) for text in texts if text in hidden)
        return frozenset(token for token in ids if token is not None)

    def check_stops(self, stops: Sequence[str]) -> None:
        """Reject stop strings that an output can never contain.

        Raises:
            ConfigError: one is empty, too long, or contains a special token; names it.
        """
        for stop in stops:
            if not 0 < len(stop) <= MAX_STOP:
                raise ConfigError(
                    f"a stop string has {len(stop)} characters: it needs 1 to {MAX_STOP}"
                )
            inside = [token for token in self.decoding.hidden if token in stop and token != stop]
            if inside and stop not in self.decoding.hidden:
                raise ConfigError(
                    f"the stop string {stop!r} contains the special token {inside[0]!r}, which is "
                    "not part of the text: give that token alone as a stop string"
                )

    def render_chat(
        self, messages: Sequence[Message], *, is_open: bool = True, tools: Sequence[Message] = ()
    ) -> str:
        """Return a conversation as text, up to the assistant's turn if it is open.

        Raises:
            ConfigError: the model has no chat template, or it rejects the conversation or a tool.
        """
        return self._chat.render(messages, is_open=is_open, tools=tools)

    def token_bytes(self, token_id: int) -> bytes:
        """Return the UTF-8 bytes that a token adds to a text, maybe a part of a character."""
        return token_bytes(self.decoding, token_id)

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of tokens, without special tokens."""
        text: str = self._inner.decode(list(token_ids), skip_special_tokens=True)
        return _clean(text) if self._cleans else text


def check_same_vocabulary(target: Tokenizer, drafter: Tokenizer) -> None:
    """Reject a drafter with another vocabulary than the target's.

    Raises:
        ConfigError: the vocabularies differ; names the first difference.
    """
    mine, theirs = target.vocabulary, drafter.vocabulary
    if mine == theirs:
        return
    differing = sorted(
        token for token in mine.keys() | theirs.keys() if mine.get(token) != theirs.get(token)
    )
    token = differing[0]
    raise ConfigError(
        f"the drafter has another vocabulary: {len(differing)} tokens differ, for example "
        f"{token!r}, which is {mine.get(token)} for the target and {theirs.get(token)} for the "
        "drafter; use a drafter of the target's family, target:layers=..., or ngram"
    )


class IncrementalDecoder(Detokenizer):
    """Decodes a stream of a tokenizer's tokens, never splitting a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer.decoding)


class StopMatcher:
    """Finds the first token with which a text contains a stop string.

    A special token, which is not part of the text, matches by its name.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._decoder = IncrementalDecoder(tokenizer)
        self._stops = tuple(stops)
        self._stop_ids = tokenizer.special_ids(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._tail = ""

    def push(self, token: int) -> bool:
        """Add the next token and return whether the text now contains a stop string."""
        text = self._tail + self._decoder.push((token,))
        self._tail = text[1 - self._longest :] if self._longest > 1 else ""
        if token in self._stop_ids:
            return True
        limit = 2 * self._longest + 8  # more than one token can add
        pending = self._decoder.pending(limit)
        if len(pending) == limit:  # the text before it has been searched already
            return any(stop in text or stop in pending for stop in self._stops)
        return any(stop in text + pending for stop in self._stops)


def _load(folder: Path) -> LoadedTokenizer:
    try:
        file = copy_file(folder, cache_directory())
    except (ConfigError, OSError):
        file = None
    loaded = None if file is None else read_copy(file)
    if loaded is None:
        loaded = importlib.import_module(_FILES).load_tokenizer(folder)
        if file is not None:
            keep_copy(file, loaded)
    return loaded


def _clean(text: str) -> str:
    """Return a decoded text as transformers cleans it."""
    base = importlib.import_module("transformers").PreTrainedTokenizerFast
    cleaned: str = base.clean_up_tokenization(None, text)
    return cleaned
