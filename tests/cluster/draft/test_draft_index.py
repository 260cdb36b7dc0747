"""Building a store of texts for the look-up drafter."""

import json
from pathlib import Path

import pytest

from cluster.draft.draft_index import run
from cluster.options.draft_options import DraftIndexOptions
from runtime.drafters.lookups.retrieval_files import load_store
from runtime.errors import ConfigError
from tests.support.tiny_checkpoint import save_tiny_checkpoint


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def options(target: Path, files: tuple[Path, ...], out: Path) -> DraftIndexOptions:
    return DraftIndexOptions(target=str(target), files=files, out=out, json=True)


def test_all_texts_are_in_the_store(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, lines = tmp_path / "plain.txt", tmp_path / "lines.jsonl"
    plain.write_text("w1 w2 w3")
    lines.write_text('{"text": "w4 w5"}\n{"text": "w6 w7"}\n')
    assert run(options(target, (plain, lines), tmp_path / "store")) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["num_texts"] == 3
    store = load_store(tmp_path / "store")
    assert facts["num_tokens"] == len(store.tokens)
    assert [token for token in store.tokens.tolist() if token] == [1, 2, 3, 4, 5, 6, 7]


def test_files_without_text_are_rejected(target: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    with pytest.raises(ConfigError, match=r"empty\.txt: no text"):
        run(options(target, (empty,), tmp_path / "store"))
