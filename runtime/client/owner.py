"""Where a client may be used: in the process that made it, until it is closed."""

import os

from runtime.errors import PacelineError


class ClientUnusable(PacelineError):
    """The client is closed, or belongs to another process or event loop."""


class Owner:
    """The process that made a client; gRPC's connections and threads do not survive a fork."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._is_closed = False

    @property
    def is_here(self) -> bool:
        """Whether this is the process that made the client."""
        return os.getpid() == self._pid

    def close(self) -> None:
        """Allow no further use."""
        self._is_closed = True

    def check(self) -> None:
        """Raise unless the client may be used.

        Raises:
            ClientUnusable: it is closed, or this process was forked from the one that made it.
        """
        if not self.is_here:
            raise ClientUnusable(
                f"this client was made in process {self._pid}, and its connection did not survive "
                f"the fork to process {os.getpid()}: make a client in each process"
            )
        if self._is_closed:
            raise ClientUnusable("this client is closed: make another one")
