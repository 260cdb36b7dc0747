"""A TCP relay that counts the bytes of a connection at the socket, for any protocol."""

import contextlib
import socket
import threading
from collections.abc import Callable

_PIECE = 1 << 16


class CountingRelay:
    """Forwards every connection to its port on loopback to another address."""

    def __init__(self, target: str) -> None:
        """Start listening; `target` is HOST:PORT."""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        """The address to connect to."""
        self.num_up = 0
        """Bytes to the target."""
        self.num_down = 0
        """Bytes from it."""
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        """End all connections."""
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):  # the peer may have closed it
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(5.0)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open += [near, far]
            self._start(self._pass_on, near, far, True)
            self._start(self._pass_on, far, near, False)

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                if is_up:
                    self.num_up += len(data)
                else:
                    self.num_down += len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
