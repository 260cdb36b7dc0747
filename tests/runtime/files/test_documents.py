"""What is read from outside is understood, or rejected with the file and the reason."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from runtime.errors import ConfigError
from runtime.files.documents import (
    MAX_DEPTH,
    DocumentError,
    parse_msgpack,
    parse_toml,
    read_bytes,
    read_text,
    read_toml,
)

BOM = b"\xef\xbb\xbf"
DEEP = 100_000
DIGITS = "7" * 5000


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, newline: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(BOM + f"a = 1{newline}".encode())
    assert read_toml(file) == {"a": 1}
    assert read_text(file) == f"a = 1{newline}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = \nb = 1", "not TOML .*line 1"),
        ("a = 1\na = 2\nb = 3", "not TOML .*line 2"),
        ("a = " + "[" * DEEP, f"nests too deeply .* {MAX_DEPTH} levels"),
        (f"a = {DIGITS}", "an integer has more than 40 digits"),
        (f"a = 0x{'f' * 5000}", "an integer has more than 40 digits"),
    ],
)
def test_toml_that_cannot_be_used_says_why(text: str, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        parse_toml(text, "here")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91" * 5000,  # lists of one list
        msgpack.packb(1) * 2,
        b"\x81\x90\x01",  # a list as a key
        b"\xa1\xff",  # a string that is not UTF-8
        b"\xdc\xff\xff",  # a list that was cut
        b"\xd6\xff\x00\x00\x00",  # a timestamp that was cut
    ],
)
def test_bytes_that_are_no_msgpack_say_so(data: bytes) -> None:
    with pytest.raises(DocumentError, match="not msgpack"):
        parse_msgpack(data)


def _nothing(path: Path) -> None:
    assert not path.exists()


def _directory(path: Path) -> None:
    path.mkdir()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_nothing, "does not exist"),
        (lambda path: path.symlink_to("gone"), r"does not exist \(a link to gone\)"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (_directory, "is a directory: name a file"),
        (os.mkfifo, "is a named pipe"),
        (_socket, "is a socket"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device"),
        (lambda path: path.symlink_to("/proc/self/mem"), "Input/output error"),
        (_huge, "1,099,511,627,776 bytes, at most"),
        (lambda path: path.write_bytes(b"a\nb\xe9"), "not UTF-8: line 2 has the byte 0xe9"),
        (lambda path: path.write_bytes("a".encode("utf-16")), "not UTF-8: line 1"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    tmp_path: Path, make: Callable[[Path], Any], reason: str
) -> None:
    file = tmp_path / "file"
    make(file)
    with pytest.raises(ConfigError, match=reason) as refused:
        read_text(file)
    assert str(file) in str(refused.value)


def test_names_that_no_file_can_have_are_rejected() -> None:
    for name in ("a" * 300, "a\0b"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_text(Path(name))


def test_an_open_pipe_is_read_to_its_end() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"token\n")
    os.close(writing)
    assert read_bytes(Path(f"/dev/fd/{reading}")) == b"token\n"
    os.close(reading)


def test_errors_of_a_document_name_its_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a = " + "[" * DEEP)
    with pytest.raises(ConfigError, match=f"{file}: it nests"):
        read_toml(file)
