"""What gRPC's words for a broken connection mean."""

from runtime.channels.handshakes import explained


def test_a_connection_that_breaks_under_way_is_no_failed_handshake() -> None:
    """A server that is killed: gRPC 1.85 words it so, and the stream had begun."""
    broken = "Stream removed (Socket closed)"
    assert explained(broken) == broken
    never = (
        "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:1.2.3.4: Socket closed"
    )
    assert explained(never).startswith("the server closed the connection: it may require TLS")
