"""A TCP relay whose traffic can be cut, or be delayed and lost as on a bad line."""

import contextlib
import random
import socket
import threading
import time
from enum import Enum

_DELAY_S = 0.1
_LOSS = 0.3
_RETRY_S = 0.2  # TCP's least time until it sends again; it doubles each time
_CHUNK = 1400  # a packet


class Mode(Enum):
    """What a relay does with bytes."""

    PASS = "pass"
    CUT = "cut"
    """Connections end, new ones are rejected."""
    LOSSY = "lossy"
    """100 ms late, and of 10 packets 3 are sent again."""


class Relay:
    """Passes a port's connections on to another one."""

    def __init__(self, target: tuple[str, int] | None = None) -> None:
        self.target = target
        self.mode = Mode.PASS
        self.num_connections = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._random = random.Random(0)
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections, and let no new ones in until `mode` is another."""
        self.mode = Mode.CUT
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything."""
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self.mode is Mode.CUT or self.target is None:
                    raise OSError("cut")
                far = socket.create_connection(self.target, timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {near, far}
                self.num_connections += 1
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.mode is Mode.LOSSY:
                    time.sleep(_DELAY_S + self._lost_s(len(data)))
                sink.sendall(data)
        with self._lock:
            self._open -= {source, sink}
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()  # the other direction's thread closes its own

    def _lost_s(self, num_bytes: int) -> float:
        """Return how long TCP would take to bring lost packets over: they travel together."""
        worst = 0.0
        for _ in range(-(-num_bytes // _CHUNK)):
            wait_s, again_s = 0.0, _RETRY_S
            while self._random.random() < _LOSS and wait_s < 3.0:
                wait_s, again_s = wait_s + again_s, 2 * again_s
            worst = max(worst, wait_s)
        return worst
