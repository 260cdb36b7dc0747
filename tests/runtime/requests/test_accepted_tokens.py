"""The tokens of a server name its clients, the same for every wire."""

import pytest

from runtime.requests.accepted_tokens import AcceptedTokens

PEER = "ipv4:10.0.0.7:41234"
BOTH = AcceptedTokens(users=("user",), admins=("root",))


def bearer(text: str) -> tuple[tuple[str, str | bytes], ...]:
    return (("authorization", text),)


@pytest.mark.parametrize("text", ["bearer user", "BEARER user", "Bearer  user", " Bearer user "])
def test_a_token_is_one_client_however_its_header_is_written(text: str) -> None:
    assert BOTH.name_of(bearer(text), PEER) == BOTH.name_of(bearer("Bearer user"), PEER)


def test_two_tokens_are_two_clients_wherever_they_call_from() -> None:
    names = {BOTH.name_of(bearer(f"Bearer {token}"), PEER) for token in ("user", "root")}
    assert len(names) == 2
    assert BOTH.name_of(bearer("Bearer user"), "ipv4:10.9.9.9:1") in names
    assert not any("user" in name or "root" in name for name in names)


@pytest.mark.parametrize("tokens", [AcceptedTokens(), AcceptedTokens(admins=("root",))])
def test_a_header_that_no_token_accepts_makes_no_new_client(tokens: AcceptedTokens) -> None:
    for text in ("Bearer 1", "Bearer 2", "Basic xyz", "x"):
        assert tokens.name_of(bearer(text), PEER) == "ipv4:10.0.0.7"
    assert tokens.name_of(None, "ipv6:%5B::1%5D:50051") == "ipv6:%5B::1%5D"
    assert tokens.name_of((), "unix:/run/paceline.sock") == "unix:/run/paceline.sock"


def test_users_and_administrators_may_use_the_service() -> None:
    assert BOTH.may_use(bearer("Bearer user"))
    assert BOTH.may_use(bearer("Bearer root"))
    assert not BOTH.may_use(bearer("Bearer other"))
    assert not BOTH.may_use(None)
    assert AcceptedTokens(admins=("root",)).may_use(None)
