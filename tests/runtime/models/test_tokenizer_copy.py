import shutil
from pathlib import Path

import pytest

from runtime.models import tokenizer_files
from runtime.models.tokenizer import Tokenizer
from runtime.models.tokenizer_copy import copy_file, keep_copy, read_copy
from runtime.models.tokenizer_files import load_tokenizer
from tests.support.tokenizer_layouts import LAYOUTS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    next(iter(LAYOUTS.values()))(directory)
    return directory


def test_a_copy_is_what_was_loaded(folder: Path, tmp_path: Path) -> None:
    file = copy_file(folder, tmp_path)
    assert file is not None
    assert read_copy(file) is None
    loaded = load_tokenizer(folder)
    keep_copy(file, loaded)
    copy = read_copy(file)
    assert copy is not None
    assert copy.backend.to_str() == loaded.backend.to_str()
    assert copy.backend.encode_special_tokens == loaded.backend.encode_special_tokens
    assert (copy.eos_token_id, copy.eos_ids) == (loaded.eos_token_id, loaded.eos_ids)
    assert copy.special_tokens == loaded.special_tokens
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_another_content_of_any_file_is_another_tokenizer(folder: Path, tmp_path: Path) -> None:
    names = {copy_file(folder, tmp_path)}
    for file in ("tokenizer_config.json", "new.txt", "additional_chat_templates/tool_use.jinja"):
        (folder / file).parent.mkdir(exist_ok=True)
        with (folder / file).open("a") as opened:
            opened.write(" ")
        names.add(copy_file(folder, tmp_path))
    assert len(names) == 4
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "state.json").write_text("{}")  # of a job that trains here
    assert copy_file(folder, tmp_path) in names
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    assert copy_file(moved, tmp_path) in names


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"backend": "x"}', '{"backend": "{}"}'])
def test_a_damaged_copy_is_replaced(
    damage: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    ids = Tokenizer.load(folder).encode("the fox")
    (file,) = (tmp_path / "cache" / "tokenizers").iterdir()
    file.write_text(damage)
    assert Tokenizer.load(folder).encode("the fox") == ids
    monkeypatch.setattr(tokenizer_files, "load_tokenizer", None)  # from here the copy serves
    assert Tokenizer.load(folder).encode("the fox") == ids


def test_without_a_place_for_copies_tokenizers_load(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path / "cache"))
    assert Tokenizer.load(folder).encode("the fox") == Tokenizer.load(folder).encode("the fox")
