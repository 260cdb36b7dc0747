"""Retrieval stores on disk: two arrays that every worker of a machine maps, and a manifest."""

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
_MANIFEST = "store.json"


def save_store(directory: Path, store: RetrievalStore, *, vocabulary: str, num_texts: int) -> None:
    """Write a store; the directory appears whole or not at all.

    Args:
        directory: where to; must not exist.
        store: what to write.
        vocabulary: digest of the vocabulary its tokens belong to.
        num_texts: how many texts it holds, for people.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        np.save(partial / "tokens.npy", store.tokens)
        np.save(partial / "order.npy", store.order)
        manifest = {
            "format": _FORMAT,
            "vocabulary": vocabulary,
            "end": store.end,
            "num_texts": num_texts,
            "num_tokens": len(store.tokens),
        }
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
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
    if _read_manifest(directory)["vocabulary"] != vocabulary:
        raise ConfigError(
            f"the store {directory} holds tokens of another vocabulary: index the files again for "
            "this target"
        )


def load_store(directory: Path) -> RetrievalStore:
    """Map a store; its pages are shared by all processes that do.

    Raises:
        ConfigError: it is missing or damaged.
    """
    manifest = _read_manifest(directory)
    try:
        tokens = np.load(directory / "tokens.npy", mmap_mode="r", allow_pickle=False)
        order = np.load(directory / "order.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"the store {directory} is damaged ({error}): index it again") from error
    whole = tokens.shape == order.shape == (manifest["num_tokens"],)
    if not whole or tokens.dtype != np.uint32 or order.dtype != np.uint32:
        raise ConfigError(f"the store {directory} is damaged (lengths differ): index it again")
    end = manifest["end"]
    assert isinstance(end, int)
    return RetrievalStore(tokens, order, end)


def is_whole(store: RetrievalStore) -> bool:
    """Return whether the files of a store still have their full size.

    Reading a mapped page that was cut off a file ends the process, with no exception to catch.
    """
    return all(_is_complete(array) for array in (store.tokens, store.order))


def _is_complete(array: np.ndarray) -> bool:
    if not isinstance(array, np.memmap):
        return True
    mapped = array.base
    return not isinstance(mapped, mmap) or mapped.size() >= array.offset + array.nbytes


def _read_manifest(directory: Path) -> dict[str, object]:
    file = directory / _MANIFEST
    if not file.exists():
        raise ConfigError(f"{directory} is no store of texts: make one with paceline draft index")
    manifest: dict[str, object] = read_json_object(file)
    try:
        is_known = manifest["format"] == _FORMAT and isinstance(manifest["end"], int)
        is_known = is_known and {"vocabulary", "num_tokens"} <= manifest.keys()
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{file} is damaged ({error}): index it again") from error
    if not is_known:
        raise ConfigError(f"{file} is of another version: index it again")
    return manifest
