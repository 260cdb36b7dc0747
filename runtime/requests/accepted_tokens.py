"""Bearer tokens that a server accepts, and the names of clients; the same for every wire."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

Headers = Iterable[tuple[str, str | bytes]] | None
"""Header names in lower case, with their values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedTokens:
    """The bearer tokens that a server accepts."""

    users: tuple[str, ...] = ()
    """If empty, calls other than those of administrators need no token."""
    admins: tuple[str, ...] = ()
    """Tokens that may also administer the server; if empty, those of `users` may."""

    def __bool__(self) -> bool:
        return bool(self.users or self.admins)

    def name_of(self, headers: Headers, peer: str) -> str:
        """Return the name of a caller for limits, queues and logs.

        It is a digest of the accepted token, or without one the peer's address without its port, as
        gRPC writes it; other headers of the caller have no influence.
        """
        token = _matching(self.users + self.admins, headers)
        if token is not None:
            return "token-" + hashlib.sha256(token.encode()).hexdigest()[:12]
        return peer if peer.startswith("unix") else peer.rpartition(":")[0]

    def may_use(self, headers: Headers) -> bool:
        """Return whether a call may use the service."""
        return not self.users or _matching(self.users + self.admins, headers) is not None

    def is_known(self, headers: Headers) -> bool:
        """Return whether a call has any of the tokens."""
        return _matching(self.users + self.admins, headers) is not None

    def may_administer(self, headers: Headers) -> bool:
        """Return whether a call with a known token may administer the server."""
        return not self.admins or _matching(self.admins, headers) is not None


def _matching(tokens: tuple[str, ...], headers: Headers) -> str | None:
    given = next((value for key, value in headers or () if key == "authorization"), "")
    kind, _, token = str(given).strip().partition(" ")
    if kind.lower() != "bearer":
        return None
    offered = token.strip().encode()
    # Every token is compared in constant time, so that timing reveals nothing.
    matches = [known for known in tokens if hmac.compare_digest(offered, known.encode())]
    return matches[0] if matches else None
