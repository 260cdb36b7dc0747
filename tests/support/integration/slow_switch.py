"""A network switch in user space that delays and drops frames: `tc netem` is not in every kernel.

Run within a network namespace: python slow_switch.py DELAY_S LOSS SEED PORT... It forwards between
the named interfaces until its standard input ends.
"""

import random
import select
import socket
import sys
import time
from collections import deque

_ALL_FRAMES = 3  # ETH_P_ALL
_OUTGOING = 4  # PACKET_OUTGOING: what we sent ourselves
_FRAME_BYTES = 65536
_MAC_BYTES = 6
_MOST_WAITING = 20000


class Switch:
    """Learns which port has which address, as switches do."""

    def __init__(self, ports: list[str], *, delay_s: float, loss: float, seed: int) -> None:
        self._ports = [_open(name) for name in ports]
        self._delay_s = delay_s
        self._loss = loss
        self._random = random.Random(seed)
        self._known: dict[bytes, socket.socket] = {}
        self._waiting: deque[tuple[float, list[socket.socket], bytes]] = deque()

    def run(self) -> None:
        """Forward until standard input ends."""
        while True:
            due_s = self._waiting[0][0] - time.monotonic() if self._waiting else 1.0
            readable, _, _ = select.select([*self._ports, sys.stdin], [], [], max(0.0, due_s))
            if sys.stdin in readable and not sys.stdin.read(1):
                return
            for port in self._ports:
                if port in readable:
                    self._take(port)
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, outs, frame = self._waiting.popleft()
                for out in outs:
                    _send(out, frame)

    def _take(self, port: socket.socket) -> None:
        try:
            frame, (_, _, kind, *_) = port.recvfrom(_FRAME_BYTES)
        except OSError:
            return
        if kind == _OUTGOING or self._random.random() < self._loss:
            return
        self._known[frame[_MAC_BYTES : 2 * _MAC_BYTES]] = port
        known = self._known.get(frame[:_MAC_BYTES])
        outs = [known] if known is not None else [p for p in self._ports if p is not port]
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append((time.monotonic() + self._delay_s, outs, frame))


def _open(name: str) -> socket.socket:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_FRAMES))
    port.bind((name, 0))
    port.setblocking(False)
    return port


def _send(port: socket.socket, frame: bytes) -> None:
    try:
        port.send(frame)
    except OSError:
        return  # a full queue drops frames, as it may


if __name__ == "__main__":
    delay, loss, seed, *names = sys.argv[1:]
    Switch(names, delay_s=float(delay), loss=float(loss), seed=int(seed)).run()
