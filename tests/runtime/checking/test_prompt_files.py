"""Prompt files as data sets publish them, and what errors name in unusable ones."""

import json
from pathlib import Path

import pytest

from runtime.checking.prompt_files import PromptRecord, read_prompts
from runtime.errors import ConfigError

CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prompts.jsonl"


def write(file: Path, *records: object) -> Path:
    file.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return file


def test_every_known_form_is_read(file: Path) -> None:
    write(
        file,
        {"question_id": 81, "category": "writing", "turns": ["first", "second"]},
        {"task_id": "HumanEval/0", "prompt": "def f():"},
        {"question": "how many?", "answer": "3"},
        {"text": "plain"},
        {"messages": [*CHAT, {"role": "user", "content": "more", "name": "x"}]},
    )
    messages = (*CHAT, {"role": "user", "content": "more", "name": "x"})
    assert read_prompts(file) == [
        PromptRecord(index=0, text="first", category="writing"),
        PromptRecord(index=1, text="def f():"),
        PromptRecord(index=2, text="how many?"),
        PromptRecord(index=3, text="plain"),
        PromptRecord(index=4, messages=messages),
    ]


def test_the_limit_takes_the_first(file: Path) -> None:
    write(file, *({"prompt": str(i)} for i in range(5)))
    assert [record.text for record in read_prompts(file, limit=2)] == ["0", "1"]
    assert len(read_prompts(file, limit=9)) == 5


def test_blank_lines_are_skipped_and_line_ends_may_be_of_windows(file: Path) -> None:
    file.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n{"prompt": "b"}\r\n')
    assert [record.text for record in read_prompts(file)] == ["a", "b"]


def test_unusual_separators_inside_a_string_do_not_end_the_line(file: Path) -> None:
    text = "one\u2028two\u0085three"
    file.write_text(json.dumps({"prompt": text}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_prompts(file)[0].text == text


def test_the_shared_data_sets_can_be_read() -> None:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "prompts"
    if not folder.is_dir():
        pytest.skip(f"the prompt files are not at {folder}")
    for path in folder.glob("*.jsonl"):
        assert all(record.text for record in read_prompts(path, limit=50))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"', r"not JSON: .* at column 15"),
        ("[1]", "expected a JSON object, found a list"),
        ('{"input": "a", "id": 1}', r"no prompt in its fields \(id, input\); it needs one"),
        ("{}", r"no prompt in its fields \(none\)"),
        ('{"prompt": null}', "no prompt in its fields"),
        ('{"prompt": "a", "messages": []}', "it has prompt and messages: keep the one"),
        ('{"prompt": 3}', "prompt is 3: it must be a string"),
        ('{"prompt": ["a"]}', r"prompt is \['a'\] \(list\): it must be a string"),
        ('{"prompt": " "}', "prompt is empty: write at least one word"),
        ('{"prompt": "a\\ud800b"}', "a string holds half a surrogate pair"),
        ('{"prompt": "a", "prompt": "b"}', "the key 'prompt' occurs twice"),
        ('{"prompt": "a", "x": ' + "[" * 90_000 + "}", "nests"),
        ('{"prompt": "a", "x": ' + "7" * 5_000 + "}", "digits"),
        ('{"prompt": "a", "category": 3}', "category is 3: it must be a string"),
        ('{"turns": []}', "turns is empty: give at least one string"),
        ('{"turns": "a"}', "turns is 'a' .*: it must be a list of strings"),
        ('{"turns": [1]}', r"turns\[0\] is 1: it must be a string"),
        ('{"messages": []}', "messages is empty"),
        ('{"messages": [{"role": "user"}]}', r"messages\[0\] has no content"),
        ('{"messages": ["hi"]}', r"messages\[0\] is 'hi'"),
        ('{"messages": [{"role": "user", "content": 3}]}', r"messages\[0\].content is 3"),
        ('{"messages": [{"role": "user", "content": "a", "x": 1}]}', r"messages\[0\].x is not"),
    ],
)
def test_an_unusable_line_is_named(file: Path, line: str, message: str) -> None:
    file.write_text(f'{{"prompt": "fine"}}\n{line}\n')
    with pytest.raises(ConfigError, match=f"prompts.jsonl, line 2: .*{message}"):
        read_prompts(file)


def test_keys_that_cannot_be_passed_on_are_rejected_by_line(file: Path) -> None:
    write(file, {"messages": [{"role": "user", "content": "a", "name": "ann"}]})
    message = r"line 1: messages\[0\].name is not supported here"
    with pytest.raises(ConfigError, match=message):
        read_prompts(file, extra_keys=())


def test_a_record_says_where_it_is_from(file: Path) -> None:
    write(file, {"prompt": "a"}, {"prompt": "b"})
    assert [record.where for record in read_prompts(file)] == [f"{file}, line {n}" for n in (1, 2)]


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_prompts_is_rejected(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="is empty: write one JSON object a line"):
        read_prompts(file)


def test_a_file_that_is_not_utf8_is_rejected(file: Path) -> None:
    file.write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(ConfigError, match="is not UTF-8: line 1 has the byte 0xff"):
        read_prompts(file)


def test_a_missing_file_is_rejected(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts.jsonl does not exist"):
        read_prompts(file)


def test_a_directory_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a directory: name a file"):
        read_prompts(tmp_path)


def test_a_limit_below_one_is_rejected(file: Path) -> None:
    with pytest.raises(ConfigError, match="`num_prompts` is 0: it must be at least 1"):
        read_prompts(file, limit=0)
