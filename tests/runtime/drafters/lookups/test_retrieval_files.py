"""A store on disk is read as it was written, and one that is damaged is rejected."""

from pathlib import Path

import numpy as np
import pytest

from parallel.drafting.retrieval import build_store
from runtime.drafters.lookups.retrieval_files import check_store, load_store, save_store
from runtime.errors import ConfigError


def test_a_store_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = build_store([[1, 2, 3], [4, 2, 3, 9]], 0)
    save_store(tmp_path / "store", store, vocabulary="v", num_texts=2)
    check_store(tmp_path / "store", "v")
    again = load_store(tmp_path / "store")
    assert again.longest([5, 2, 3])[1].tolist() == store.longest([5, 2, 3])[1].tolist()


def test_a_store_that_is_of_no_use_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no store of texts: make one with"):
        load_store(tmp_path)
    directory = tmp_path / "store"
    save_store(directory, build_store([[1, 2]], 0), vocabulary="v", num_texts=1)
    with pytest.raises(ConfigError, match="another vocabulary"):
        check_store(directory, "w")
    raw = (directory / "order.npy").read_bytes()
    (directory / "order.npy").write_bytes(raw[:-3])
    with pytest.raises(ConfigError, match="is damaged"):
        load_store(directory)
    (directory / "store.json").write_text("{")
    with pytest.raises(ConfigError, match=r"store\.json: not JSON"):
        load_store(directory)


@pytest.mark.parametrize("name", ["tokens.npy", "order.npy"])
@pytest.mark.parametrize("damage", ["empty", "text", "two rows", "of another type"])
def test_a_store_with_a_damaged_file_is_rejected(tmp_path: Path, name: str, damage: str) -> None:
    directory = tmp_path / "store"
    save_store(directory, build_store([[1, 2]], 0), vocabulary="v", num_texts=1)
    file = directory / name
    match damage:
        case "empty":
            file.write_bytes(b"")
        case "text":
            file.write_text("no array", encoding="utf-8")
        case "two rows":
            np.save(file, np.zeros((3, 2), np.uint32))
        case _:
            np.save(file, np.zeros(3, np.float64))
    with pytest.raises(ConfigError, match="is damaged"):
        load_store(directory)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text", encoding="utf-8")
    with pytest.raises(ConfigError, match="is no store of texts"):
        load_store(tmp_path / "file")
