"""Explain failed TLS handshakes, which gRPC reports as UNAVAILABLE whatever the cause."""

_MEANINGS = {
    "CERTIFICATE_VERIFY_FAILED": (
        "the certificate of the server is not trusted: give the authority that signed it"
    ),
    "Hostname Verification Check failed": (
        "the server's certificate is for other hosts: connect to one of them"
    ),
    "WRONG_VERSION_NUMBER": "the server does not use TLS: connect without TLS",
}
_CLOSED = "Socket closed"
_UNDER_WAY = "Stream removed"
"""Part of gRPC's text for a call that was under way: its handshake had succeeded."""
_CLOSED_HINT = (
    "the server closed the connection: it may require TLS, or a client certificate that it trusts"
)


def lasting_failure(details: str | None) -> str | None:
    """Return why a handshake cannot succeed, or None if a retry may help.

    Args:
        details: gRPC's text of a call's status.
    """
    found = (meaning for text, meaning in _MEANINGS.items() if text in (details or ""))
    return next(found, None)


def explained(details: str | None) -> str:
    """Return a status's details, with an explanation if a handshake failed."""
    meaning = lasting_failure(details)
    closed_at_once = _CLOSED in (details or "") and _UNDER_WAY not in (details or "")
    if meaning is None and closed_at_once:
        meaning = _CLOSED_HINT
    return str(details) if meaning is None else f"{meaning}; gRPC reports: {details}"
