"""Check bearer tokens, and read token files."""

from pathlib import Path

from runtime.errors import ConfigError
from runtime.files.documents import read_text

_MAX_FILE_BYTES = 1 << 20


def check_token(token: object, field: str = "token") -> str:
    """Return a bearer token, checked for use in a header; errors show no part of it.

    Raises:
        ConfigError: it is not a string of visible ASCII characters.
    """
    if not isinstance(token, str):
        raise ConfigError(f"{field} is a {type(token).__name__}: it must be a string")
    if not token:
        raise ConfigError(f"{field} is empty: give a token, or None")
    for index, char in enumerate(token):
        if not "!" <= char <= "~":
            raise ConfigError(
                f"{field} has {_name(char)} as character {index + 1}: a token has only visible "
                "ASCII characters"
            )
    return token


def read_tokens(path: Path | None, field: str) -> tuple[str, ...]:
    """Return the tokens of a file, one per line; none without a file.

    Raises:
        ConfigError: the file cannot be read or has no token, or a line is not a token.
    """
    if path is None:
        return ()
    try:
        lines = read_text(path, max_bytes=_MAX_FILE_BYTES).split("\n")
    except ConfigError as error:
        raise ConfigError(f"{field}: {error}") from error
    tokens = tuple(
        check_token(line.strip(" \t\r"), f"{field} {path}, line {number}:")
        for number, line in enumerate(lines, start=1)
        if line.strip(" \t\r")
    )
    if not tokens:
        raise ConfigError(f"{field} {path} has no token: write one per line")
    return tokens


def _name(char: str) -> str:
    known = {" ": "a space", "\n": "a line break", "\r": "a line break", "\t": "a tab"}
    known["\ufeff"] = "a byte order mark"
    return known.get(char, f"U+{ord(char):04X}")
