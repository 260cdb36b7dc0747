"""JSON as it stands in the file, or one error that names the position."""

import json
from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.files.strict_json import parse_json, read_json_lines, read_json_object


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": {"c": 2, "c": 3}}', "the key 'c' occurs twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": 1e999}', "the number 1e999 is too large"),
        ('{"a": ' + "7" * 5000 + "}", "a number has 5000 digits"),
        ("[" * 100_000, "it nests too deeply"),
        ('{"a":' * 100_000, "it nests too deeply"),
        ("[" * 102 + "]" * 102, "it nests too deeply"),
        (r'{"a": "\ud83d"}', "half a surrogate pair"),
        (r'{"\udc00": 1}', "half a surrogate pair"),
        (f'{{"a": {"9" * 41}}}', "a number has 41 digits"),
        ('{"a": }', "not JSON: Expecting value at column 7"),
        ('{\n"a": }', "not JSON: Expecting value at line 2, column 6"),
        ("", "not JSON: Expecting value at column 1"),
    ],
)
def test_what_python_drops_or_bends_is_rejected(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_plain_json_is_read_as_python_reads_it() -> None:
    text = '{"a": [1, -2.5e3, true, null, "\\u00e9\\n"], "b": {"c": {}}, "d": 12345678901234567890}'
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize(
    "value",
    [{"model_max_length": int(1e30)}, "\U0001f600", {"a": [True, None, 1.5, "\u2028"]}],
)
def test_what_checkpoints_hold_is_read(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False)) == value


def test_nesting_up_to_the_limit_is_read() -> None:
    assert parse_json("[" * 100 + "]" * 100) is not None


def test_measurements_may_have_no_value() -> None:
    text = '{"loss": NaN, "time_s": [Infinity, 1e999]}'
    assert str(parse_json(text, finite=False)) == "{'loss': nan, 'time_s': [inf, inf]}"


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": "x\xe2\x80\xa8y"}\r\n\n{"a": 2}\n')
    assert list(read_json_lines(file)) == [(1, {"a": "x\u2028y"}), (3, {"a": 2})]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": 1}\n[2]\n', r"records.jsonl, line 2: expected a JSON object, found a list"),
        (b'{"a": 1}\n\n{"a": 1, "a": 2}\n', r"records.jsonl, line 3: the key 'a' occurs twice"),
        (b'{"a": 1}\n' + b"[" * 100_000, r"records.jsonl, line 2: it nests too deeply"),
        (b'{"a": "\xff"}', r"records.jsonl is not UTF-8: line 1"),
    ],
)
def test_an_error_names_file_and_line(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "records.jsonl"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        list(read_json_lines(file))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.json does not exist"):
        read_json_object(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="is a directory: name a file"):
        read_json_object(tmp_path)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"list.json: expected a JSON object, found a list"):
        read_json_object(tmp_path / "list.json")
