"""What is said of JSON that cannot be read, by file and line."""

from pathlib import Path

import pytest

from runtime.checking.json_text import parse_json, read_json_lines, read_json_object
from runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1', r"line 2: not JSON \(.* at column 8\)"),
        ("[1]", "line 2: a list, expected a JSON object"),
        ("null", "line 2: null, expected a JSON object"),
        ('"a"', "line 2: a str, expected a JSON object"),
        ("[" * 100_000, "line 2: the JSON nests too deeply"),
        ('{"a":' * 100_000, "line 2: the JSON nests too deeply"),
        ('{"a": ' + "7" * 5_000 + "}", "line 2: a number has too many digits"),
        ('{"a": 1, "b": 2, "a": 3}', "line 2: the key 'a' occurs twice"),
        ('{"a": {"b": 2, "b": 2}}', "line 2: the key 'b' occurs twice"),
        ('{"a": ["\\ud800x"]}', r"line 2: a string holds half a surrogate pair \('\\ud800'\)"),
        ('{"\\uDFFF": 1}', "line 2: a string holds half a surrogate pair"),
        ('\ufeff{"a": 1}', r"line 2: not JSON \(Unexpected UTF-8 BOM"),
    ],
)
def test_an_unusable_line_is_one_error_with_file_and_line(
    tmp_path: Path, line: str, message: str
) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text(f'{{"a": 0}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=f"records.jsonl, {message}"):
        list(read_json_lines(file))


def test_marks_blank_lines_and_windows_line_ends_are_no_part_of_the_records(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": "\xe2\x80\xa8"}')
    lines = list(read_json_lines(file))
    assert [line.fields for line in lines] == [{"a": 1}, {"a": "\u2028"}]
    assert lines[1].where == f"{file}, line 3"


def test_a_whole_surrogate_pair_is_its_character() -> None:
    assert parse_json('"\\ud83d\\ude00"', "here") == "\U0001f600"


def test_what_python_and_hugging_face_write_is_read() -> None:
    assert parse_json('{"limits": [0.0, Infinity]}', "here") == {"limits": [0.0, float("inf")]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": "\xff"}', r"settings file .*x.json is not UTF-8 \(byte 7\)"),
        ('{"a": 1}'.encode("utf-16"), r"settings file .*x.json is not UTF-8 \(byte 0\)"),
        (b"", r"x.json: not JSON"),
        (b"{\n\n1}", r"x.json: not JSON \(.* at line 3, column 1\)"),
    ],
)
def test_an_unusable_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_json_object(tmp_path / "x.json", kind="settings file")


def test_missing_files_directories_and_impossible_names_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompt file .*gone does not exist"):
        list(read_json_lines(tmp_path / "gone", kind="prompt file"))
    with pytest.raises(ConfigError, match="is a directory"):
        read_json_object(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_json_object(Path("a\0b"))
