"""A checkpoint's tokenizer is loaded as transformers does, or rejected with file and key."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import PreTrainedTokenizerFast

from runtime.errors import ConfigError
from runtime.models.tokenizer_files import load_fast_tokenizer, read_end_tokens
from tests.support.tiny_checkpoint import save_tiny_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_checkpoint(tmp_path)


def change(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_truncation_and_padding_of_a_training_run_are_dropped(folder: Path) -> None:
    inner = load_fast_tokenizer(folder).backend_tokenizer
    inner.enable_truncation(2)
    inner.enable_padding(length=9)
    inner.save(str(folder / "tokenizer.json"))
    found = load_fast_tokenizer(folder)
    assert isinstance(found, PreTrainedTokenizerFast)
    assert found.backend_tokenizer.encode("w4 w5 w6").ids == [4, 5, 6]


def test_a_directory_without_a_tokenizer_is_answered_with_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json: create it with"):
        load_fast_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read"):
        load_fast_tokenizer(folder)


@pytest.mark.parametrize("auto_map", [{"AutoTokenizer": ["x.Y", None]}, "x.Y"])
def test_a_tokenizer_with_python_code_is_rejected(folder: Path, auto_map: object) -> None:
    change(folder / "tokenizer_config.json", auto_map=auto_map)
    with pytest.raises(ConfigError, match=r"tokenizer_config\.json: auto_map names .*x\.Y"):
        load_fast_tokenizer(folder)


@pytest.mark.parametrize(
    ("in_config", "in_generation", "own", "expected"),
    [
        (2, [3, 4], 5, {2, 3, 4, 5}),
        (None, 7, None, {7}),
        ([], None, None, set()),
    ],
)
def test_end_tokens_of_all_files_are_joined(
    tmp_path: Path, in_config: object, in_generation: object, own: int | None, expected: set[int]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": in_config}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": in_generation}))
    assert read_end_tokens(tmp_path, SimpleNamespace(eos_token_id=own)) == expected


@pytest.mark.parametrize("value", [-1, "2", True, [2, None], 2.5])
def test_an_end_token_that_is_no_token_id_is_rejected(tmp_path: Path, value: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(ConfigError, match=r"config\.json: eos_token_id is"):
        read_end_tokens(tmp_path, SimpleNamespace(eos_token_id=None))
