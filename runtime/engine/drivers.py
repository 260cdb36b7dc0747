"""Links of a leader to the drivers that ask it."""

from collections.abc import Callable
from itertools import count

from parallel.messages import Message
from runtime.errors import PeerError
from runtime.links.link import Link


class Drivers:
    """Drivers by number; threads that receive add them, the leader's own does all else."""

    def __init__(self, lost: Callable[[int, PeerError], None]) -> None:
        """Begin without drivers.

        Args:
            lost: is called in `send` with a driver that cannot be reached.
        """
        self._lost = lost
        self._links: dict[int, Link] = {}
        self._numbers = count(1)

    def add(self, link: Link) -> int:
        """Add a driver; return its number."""
        driver = next(self._numbers)
        self._links[driver] = link
        return driver

    def send(self, driver: int, message: Message) -> None:
        """Send a driver a message; do nothing if the driver is lost."""
        link = self._links.get(driver)
        if link is None:
            return
        try:
            link.send(message)
        except PeerError as error:
            self._lost(driver, error)

    def send_all(self, message: Message) -> None:
        """Send every driver a message."""
        for driver in list(self._links):
            self.send(driver, message)

    def drop(self, driver: int) -> None:
        """Forget a driver and close its link."""
        link = self._links.pop(driver, None)
        if link is not None:
            link.close()

    def close(self) -> None:
        """Close all links."""
        for link in list(self._links.values()):
            link.close()
