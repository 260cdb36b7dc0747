"""How each output token came about: speculation made it, or the target alone."""

from enum import StrEnum


class TokenSource(StrEnum):
    """Where an output token comes from."""

    ACCEPTED = "accepted"
    """A draft token that the target kept."""
    RECOVERED = "recovered"
    """The target's token in place of the first rejected draft token."""
    BONUS = "bonus"
    """The target's token after a draft that it accepted whole."""
    PLAIN = "plain"
    """The target's token of a round that tested no draft."""


def token_sources(
    num_tokens: int, num_accepted: int, *, is_recovered: bool
) -> tuple[TokenSource, ...]:
    """Return the source of each token that a round committed.

    Args:
        num_tokens: how many it committed: the accepted ones, and at most one more.
        num_accepted: how many of them are draft tokens.
        is_recovered: whether the last one replaces a rejected draft token.
    """
    accepted = (TokenSource.ACCEPTED,) * num_accepted
    if num_tokens == num_accepted:
        return accepted
    if is_recovered:
        return (*accepted, TokenSource.RECOVERED)
    return (*accepted, TokenSource.BONUS if num_accepted else TokenSource.PLAIN)
