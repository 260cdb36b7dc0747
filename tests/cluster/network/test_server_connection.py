"""Connections of the command line end in errors that name their options."""

import pytest

from cluster.network.server_connection import connected
from cluster.options.client_options import ConnectOptions
from runtime.client import ServiceError


def test_the_command_line_says_that_it_waits(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(ServiceError, match="UNAVAILABLE"),
        connected(ConnectOptions(server="127.0.0.1:1")) as client,
    ):
        list(client.generate("w1", patience_s=0.2))
    shown = capsys.readouterr()
    assert shown.err.startswith("waiting for the server at 127.0.0.1:1, at most 0 s (UNAVAILABLE")
    assert not shown.out
