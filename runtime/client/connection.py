"""How a client reaches a server, and how long it waits for it; the same for both clients."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from runtime.channels.credentials import Credentials
from runtime.client.client_patience import PATIENCE_S, ClientPatience
from runtime.errors import ConfigError


class ConnectionFields(TypedDict, total=False):
    """The fields of `Connection` as keyword arguments of a client, for type checkers."""

    token: str | None
    credentials: Credentials | None
    patience_s: float
    on_wait: Callable[[str], None] | None


@dataclass(frozen=True, slots=True)
class Connection:
    """A client's server and its credentials."""

    address: str
    """HOST:PORT."""
    credentials: Credentials
    patience_s: float
    on_wait: Callable[[str], None] | None

    @classmethod
    def to(
        cls,
        address: str,
        *,
        token: str | None = None,
        credentials: Credentials | None = None,
        patience_s: float = PATIENCE_S,
        on_wait: Callable[[str], None] | None = None,
    ) -> "Connection":
        """Return the connection that a client's arguments describe.

        Raises:
            ConfigError: there is a token beside credentials, which have one of their own.
        """
        if token is not None and credentials is not None:
            raise ConfigError(
                "`token` and `credentials` are both given: put the token into the credentials"
            )
        return cls(address, credentials or Credentials(token=token), patience_s, on_wait)

    def patience(self, patience_s: float | None = None) -> ClientPatience:
        """Return the patience of one call: `patience_s` in place of the client's, unless None."""
        budget_s = self.patience_s if patience_s is None else patience_s
        return ClientPatience(self.address, budget_s, self.on_wait)
