"""A client's arguments become one connection, or are rejected."""

import pytest

from runtime.channels.credentials import Credentials
from runtime.client.client_patience import PATIENCE_S
from runtime.client.connection import Connection
from runtime.errors import ConfigError, InvalidValue


def test_a_token_alone_becomes_credentials() -> None:
    connection = Connection.to("host:1", token="secret")
    assert connection.credentials == Credentials(token="secret")
    assert connection.patience_s == PATIENCE_S


def test_a_token_beside_credentials_is_rejected() -> None:
    with pytest.raises(ConfigError, match="put the token into the credentials"):
        Connection.to("host:1", token="secret", credentials=Credentials())


def test_a_call_has_the_client_s_patience_or_its_own() -> None:
    connection = Connection.to("host:1", patience_s=-1.0)
    with pytest.raises(InvalidValue, match="`patience_s` is -1"):
        connection.patience()
    with pytest.raises(InvalidValue, match="`patience_s` is -2"):
        connection.patience(-2.0)
    connection.patience(0.0)
