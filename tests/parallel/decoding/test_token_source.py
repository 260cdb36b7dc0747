"""Each committed token has the source that its round's verdict gives it."""

import pytest

from parallel.decoding.token_source import token_sources


@pytest.mark.parametrize(
    ("num_tokens", "num_accepted", "is_recovered", "expected"),
    [
        (1, 0, False, ["plain"]),
        (1, 0, True, ["recovered"]),
        (3, 2, True, ["accepted", "accepted", "recovered"]),
        (3, 2, False, ["accepted", "accepted", "bonus"]),
        (2, 2, False, ["accepted", "accepted"]),
    ],
)
def test_the_last_token_is_recovered_bonus_or_plain(
    num_tokens: int, num_accepted: int, is_recovered: bool, expected: list[str]
) -> None:
    assert list(token_sources(num_tokens, num_accepted, is_recovered=is_recovered)) == expected
