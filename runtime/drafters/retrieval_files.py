"""Retrieval stores on disk: two arrays that every worker of a machine maps, and their facts."""

import json
import shutil
import tempfile
from mmap import mmap
from pathlib import Path

import numpy as np

from parallel.drafting.retrieval import RetrievalStore
from runtime.errors import ConfigError
from runtime.files.strict_json import read_json_object

_FORMAT = 1
_FACTS = "store.json"


def save_store(directory: Path, store: RetrievalStore, *, vocabulary: str, num_texts: int) -> None:
    """Write a store; the directory appears whole or not at all.

    Args:
        directory: where to; must not exist.
        store: what to write.
        vocabulary: digest of the vocabulary its tokens belong to.
        num_texts: for people.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        np.save(partial / "tokens.npy", store.tokens)
        np.save(partial / "order.npy", store.order)
        facts = {
            "format": _FORMAT,
            "vocabulary": vocabulary,
            "end": store.end,
            "num_texts": num_texts,
            "num_tokens": len(store.tokens),
        }
        (partial / _FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        partial.chmod(0o755)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_store(directory: Path, vocabulary: str) -> None:
    """Check that a store is whole and holds tokens of this vocabulary.

    Raises:
        ConfigError: it does not.
    """
    load_store(directory)
    if _facts(directory)["vocabulary"] != vocabulary:
        raise ConfigError(
            f"the store {directory} holds tokens of another vocabulary: index the files again for "
            "this target"
        )


def load_store(directory: Path) -> RetrievalStore:
    """Map a store; its pages are shared by all processes that do.

    Raises:
        ConfigError: it is missing or damaged.
    """
    facts = _facts(directory)
    try:
        tokens = np.load(directory / "tokens.npy", mmap_mode="r", allow_pickle=False)
        order = np.load(directory / "order.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"the store {directory} is damaged ({error}): index it again") from error
    whole = tokens.shape == order.shape == (facts["num_tokens"],)
    if not whole or tokens.dtype != np.uint32 or order.dtype != np.uint32:
        raise ConfigError(f"the store {directory} is damaged (lengths differ): index it again")
    end = facts["end"]
    assert isinstance(end, int)
    return RetrievalStore(tokens, order, end)


def is_whole(store: RetrievalStore) -> bool:
    """Return whether the files behind a store still hold all of it.

    Reading a mapped page that was cut off a file ends the process, with no exception to catch.
    """
    return all(_holds(array) for array in (store.tokens, store.order))


def _holds(array: np.ndarray) -> bool:
    if not isinstance(array, np.memmap):
        return True
    mapped = array.base
    return not isinstance(mapped, mmap) or mapped.size() >= array.offset + array.nbytes


def _facts(directory: Path) -> dict[str, object]:
    file = directory / _FACTS
    if not file.exists():
        raise ConfigError(f"{directory} is no store of texts: make one with paceline draft index")
    facts: dict[str, object] = read_json_object(file)
    try:
        known = facts["format"] == _FORMAT and isinstance(facts["end"], int)
        known = known and {"vocabulary", "num_tokens"} <= facts.keys()
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{file} is damaged ({error}): index it again") from error
    if not known:
        raise ConfigError(f"{file} is of another version: index it again")
    return facts
