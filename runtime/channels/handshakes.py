"""Say what a failed handshake means: gRPC calls a refused certificate UNAVAILABLE, too."""

_REFUSALS = {
    "CERTIFICATE_VERIFY_FAILED": (
        "the certificate of the server is not trusted: name the authority that signed it"
    ),
    "Hostname Verification Check failed": (
        "the server's certificate names other hosts: connect to one that it names"
    ),
    "WRONG_VERSION_NUMBER": "the server speaks plaintext: leave TLS out",
}
_CLOSED = "Socket closed"
_BEGUN = "Stream removed"
"""In the words for a call that was under way: its handshake had succeeded."""
_CLOSED_HINT = (
    "the server closed the connection: it may require TLS, or a client certificate that it trusts"
)


def refusal(details: str | None) -> str | None:
    """Return why a handshake cannot succeed, or None where another attempt may.

    Args:
        details: of a call's status, as gRPC words them.
    """
    found = (meaning for words, meaning in _REFUSALS.items() if words in (details or ""))
    return next(found, None)


def explained(details: str | None) -> str:
    """Return a status's details, with what they mean where a handshake failed."""
    meaning = refusal(details)
    closed_at_once = _CLOSED in (details or "") and _BEGUN not in (details or "")
    if meaning is None and closed_at_once:
        meaning = _CLOSED_HINT
    return str(details) if meaning is None else f"{meaning}; gRPC says: {details}"
