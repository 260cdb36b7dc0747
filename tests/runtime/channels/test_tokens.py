"""Bearer tokens: what a header can carry, and files of them."""

from pathlib import Path

import pytest

from runtime.channels.tokens import check_token, read_tokens
from runtime.errors import ConfigError


def test_a_file_may_have_a_mark_blank_lines_and_windows_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(b"\xef\xbb\xbfred\r\n\r\n  green-1._~+/=  \n")
    assert read_tokens(file, "--token-file") == ("red", "green-1._~+/=")
    assert read_tokens(None, "--token-file") == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no token: write one per line"),
        (b"\xef\xbb\xbf \r\n", "has no token"),
        (b"fine\nB\xc3\xa4r\n", r"line 2: has U\+00E4 as character 2"),
        (b"Bearer abc\n", "line 1: has a space as character 7"),
        (b"a\x00b\n", r"line 1: has U\+0000"),
        (b"\xff\xfea\x00\n\x00", r"is not UTF-8"),
        (b"ok\n\xef\xbb\xbfsecond\n", "line 2: has a byte order mark"),
    ],
)
def test_an_unusable_file_is_named_without_its_tokens(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^--token-file.*{message}") as caught:
        read_tokens(file, "--token-file")
    assert "fine" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--token-file: .*none does not exist"):
        read_tokens(tmp_path / "none", "--token-file")
    with pytest.raises(ConfigError, match="is a directory"):
        read_tokens(tmp_path, "--token-file")


@pytest.mark.parametrize("token", ["", "a b", "abc\n", "\ufeffabc", "ä", b"abc", 5])
def test_a_token_that_no_header_carries_is_rejected(token: object) -> None:
    with pytest.raises(ConfigError, match=r"^token (is|has) ") as caught:
        check_token(token)
    assert "abc" not in str(caught.value)
