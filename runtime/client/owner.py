"""The process that may use a client: the one that created it, until the client is closed."""

import os

from runtime.errors import PacelineError


class ClientUnusable(PacelineError):
    """The client is closed, or belongs to another process or event loop."""


class Owner:
    """The process that created a client; gRPC's connections and threads do not survive a fork."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._is_closed = False

    @property
    def is_here(self) -> bool:
        """Whether this is the process that created the client."""
        return os.getpid() == self._pid

    def close(self) -> None:
        """Reject further use."""
        self._is_closed = True

    def check(self) -> None:
        """Raise unless this process may use the client.

        Raises:
            ClientUnusable: it is closed, or this process was forked from the one that created it.
        """
        if not self.is_here:
            raise ClientUnusable(
                f"this client was created in process {self._pid}, and its connection did not "
                f"survive the fork to process {os.getpid()}: create a client in each process"
            )
        if self._is_closed:
            raise ClientUnusable("this client is closed: create another one")
