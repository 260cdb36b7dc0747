"""Copies of loaded tokenizers: the second load of a directory needs no import of transformers.

AutoTokenizer takes about 3 s of CPU time to import and to start beside torch (2026-11-30), and a
copy 0.1 s. A copy is named by the contents of every file that a tokenizer may come from and by the
versions of the libraries that read them, so it never stands for another tokenizer.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tokenizers

from runtime.files.strict_json import read_json_object

_VERSION = 1
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")
_LARGEST_FILE = 64 << 20
_TEMPLATES = "additional_chat_templates"
_LIBRARIES = ("transformers", "tokenizers")


@dataclass(frozen=True, slots=True)
class LoadedTokenizer:
    """What is used of transformers' tokenizer of a directory."""

    backend: tokenizers.Tokenizer
    eos_token_id: int | None
    cleans: bool
    """Whether transformers removes spaces before punctuation from decoded text."""
    chat_template: str | Mapping[str, str] | None
    special_tokens: Mapping[str, Any]
    """The names that chat templates have for special tokens."""
    eos_ids: frozenset[int]
    """The tokens that end an output of the model."""


def copy_file(folder: Path, cache: Path) -> Path | None:
    """Return where the copy of a directory's tokenizer belongs; None if no copy can stand for it.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([_VERSION, *map(version, _LIBRARIES)]).encode())
    places = (folder, folder / _TEMPLATES)  # transformers reads no other directory
    for file in sorted(file for place in places for file in place.glob("*")):
        if file.suffix in _WEIGHTS or not file.is_file():
            continue
        if file.stat().st_size > _LARGEST_FILE:
            return None
        contents = hashlib.blake2b(file.read_bytes()).hexdigest()
        digest.update(json.dumps([str(file.relative_to(folder)), contents]).encode())
    return cache / "tokenizers" / f"{digest.hexdigest()}.json"


def read_copy(file: Path) -> LoadedTokenizer | None:
    """Return a kept copy; None where there is none, or it is damaged."""
    try:
        kept = read_json_object(file)
        backend = tokenizers.Tokenizer.from_str(kept.pop("backend"))
        backend.encode_special_tokens = kept.pop("encode_special_tokens")
        return LoadedTokenizer(
            backend=backend,
            eos_ids=frozenset(kept.pop("eos_ids")),
            **kept,
        )
    except Exception:  # tokenizers raises nothing narrower
        return None


def keep_copy(file: Path, loaded: LoadedTokenizer) -> None:
    """Keep a copy, if it reads back as what it was made of; without one, the next load is slow."""
    with suppress(Exception):  # a component in Python has no text form; the disk may be full
        text = loaded.backend.to_str()
        kept = {
            "backend": text,
            "encode_special_tokens": loaded.backend.encode_special_tokens,  # not part of the text
            "eos_token_id": loaded.eos_token_id,
            "cleans": loaded.cleans,
            "chat_template": loaded.chat_template,
            "special_tokens": dict(loaded.special_tokens),
            "eos_ids": sorted(loaded.eos_ids),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".")
        partial = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as opened:
                json.dump(kept, opened)
            again = read_copy(partial)
            if again is None or again.backend.to_str() != text:
                return
            if replace(again, backend=loaded.backend) == loaded:
                partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
