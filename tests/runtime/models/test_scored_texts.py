"""Texts are read as the tokens that a model scores."""

import json
from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.models.scored_texts import ScoredText, read_scored_texts
from runtime.models.tokenizer import Tokenizer
from tests.support.tiny_checkpoint import save_tiny_checkpoint

QA = {"question": "w5 w6", "answer": "w7 w8 w9"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(save_tiny_checkpoint(tmp_path_factory.mktemp("model")))


def read(
    file: Path, tokenizer: Tokenizer, *lines: object, limit: int | None = None, most: int = 99
) -> list[ScoredText]:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_scored_texts(file, tokenizer, limit=limit, max_tokens=most, chat=False)


def test_answers_are_scored_and_questions_are_given(tmp_path: Path, tokenizer: Tokenizer) -> None:
    found = read(tmp_path / "t.jsonl", tokenizer, QA, {"text": "w1 w2 w3"}, QA, limit=2)
    assert found == [ScoredText((5, 6, 7, 8, 9), 2), ScoredText((1, 2, 3), 1)]
    assert [text.num_scored for text in found] == [3, 2]


def test_long_texts_are_cut(tmp_path: Path, tokenizer: Tokenizer) -> None:
    assert read(tmp_path / "t.jsonl", tokenizer, QA, most=4) == [ScoredText((5, 6, 7, 8), 2)]
    with pytest.raises(ConfigError, match=r"t\.jsonl, line 1: no token .* raise `max_tokens`"):
        read(tmp_path / "t.jsonl", tokenizer, QA, most=2)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"question": "w1"}, "a question without an answer"),
        ({"question": 1, "answer": "w1"}, "`question`"),
        ({"prompt": "w1"}, "neither question nor text"),
        ({"text": "w1"}, "no token of the text is left to score"),
    ],
)
def test_other_lines_are_refused_by_name(
    tmp_path: Path, tokenizer: Tokenizer, line: object, said: str
) -> None:
    with pytest.raises(ConfigError, match=rf"t\.jsonl, line 1: .*{said}"):
        read(tmp_path / "t.jsonl", tokenizer, line)
    with pytest.raises(ConfigError, match="is empty"):
        read(tmp_path / "t.jsonl", tokenizer)
