"""Text to tokens and back: a model's tokenizer, its chat template, streaming, stop strings.

Built on the `tokenizers` library and the checkpoint's own files, because importing transformers
for this takes seconds in every process; `tests/runtime/test_text.py` holds the two equal.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import tokenizers
from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.errors import ConfigError

_REPLACEMENT = "\ufffd"
_MARK = "0f7c2e9a"  # stands for what a user says; no template writes it


class Tokenizer:
    """A model's tokenizer."""

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        *,
        eos_ids: frozenset[int],
        chat_template: str | None,
        special_tokens: dict[str, str],
        name: str,
    ) -> None:
        self._inner = inner
        self.eos_ids = eos_ids
        self._chat_template = chat_template
        self._special_tokens = special_tokens
        self._name = name

    @classmethod
    def load(cls, directory: Path | str) -> "Tokenizer":
        """Read the tokenizer files of a checkpoint.

        Raises:
            ConfigError: they are missing or cannot be read.
        """
        folder = Path(directory)
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ConfigError(
                f"{folder} has no tokenizer.json: make one with "
                "transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        try:
            inner = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise ConfigError(f"{file} cannot be read: {error}") from error
        inner.no_truncation()  # some files carry the settings of a training run
        inner.no_padding()
        settings = _read_json(folder / "tokenizer_config.json")
        return cls(
            inner,
            eos_ids=_eos_ids(folder),
            chat_template=_chat_template(folder, settings),
            special_tokens=_special_tokens(settings),
            name=str(folder),
        )

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

    def encode(self, text: str, *, whole: bool = True) -> list[int]:
        """Return the tokens of a text; if it is whole, with the special ones put around it."""
        ids: list[int] = self._inner.encode(text, add_special_tokens=whole).ids
        return ids

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Return the tokens of a conversation, up to where the assistant speaks.

        Raises:
            ConfigError: the model has no chat template, or it refuses the conversation.
        """
        text = self.render_chat(messages)
        ids: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        return ids

    def encode_user_opening(self) -> list[int]:
        """Return the tokens of a conversation up to where its first user speaks.

        Raises:
            ConfigError: the model has no chat template.
        """
        opening, found, _ = self.render_chat([{"role": "user", "content": _MARK}]).partition(_MARK)
        if not found:
            raise ConfigError(f"the chat template of {self._name} drops what the user says")
        ids: list[int] = self._inner.encode(opening, add_special_tokens=False).ids
        return ids

    def render_chat(self, messages: Sequence[dict[str, str]], *, is_open: bool = True) -> str:
        """Return a conversation as text, up to where the assistant speaks if it is open.

        Raises:
            ConfigError: the model has no chat template, or it refuses the conversation.
        """
        if self._chat_template is None:
            raise ConfigError(f"{self._name} has no chat template: leave --chat out")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlocks]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            return environment.from_string(self._chat_template).render(
                messages=list(messages), add_generation_prompt=is_open, **self._special_tokens
            )
        except TemplateError as error:
            raise ConfigError(f"the chat template of {self._name} refuses: {error}") from error

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the text of tokens, special ones left out."""
        text: str = self._inner.decode(list(token_ids), skip_special_tokens=True)
        return text


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


def _read_json(file: Path) -> dict[str, Any]:
    """Return a JSON object; a missing file is an empty one."""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(read, dict):
        raise ConfigError(f"{file} holds no JSON object")
    return read


def _eos_ids(folder: Path) -> frozenset[int]:
    """Return the end tokens: those of generation_config.json, else those of config.json."""
    for name in ("generation_config.json", "config.json"):
        value = _read_json(folder / name).get("eos_token_id")
        if isinstance(value, int):
            return frozenset((value,))
        if isinstance(value, list):
            return frozenset(value)
    return frozenset()


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several named templates
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = settings.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            tokens[name] = value
    return tokens


class _GenerationBlocks(Extension):
    """Reads `{% generation %}`, which marks what the assistant said for training, as its body."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> None:
    raise TemplateError(message)
