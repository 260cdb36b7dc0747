"""Pings keep silent streams alive, and end the requests of clients that vanish without a word."""

import contextlib
import socket
import threading
from typing import Any

import grpc

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from tests.support.rig import Rig
from tests.support.serving import Serving, slow_down
from tests.support.waiting import wait_until

PING_FRAME = b"\0\0\x08\x06\0\0\0\0\0"
EVERY_SECOND = (("grpc.keepalive_time_ms", 1000), ("grpc.http2.max_pings_without_data", 0))


class Wire:
    """Passes one connection on to a server, counts the client's pings, and can fall silent."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [socket.create_connection((host, int(port)))]
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.num_pings = 0
        self.is_silent = False
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            near, far = self._listener.accept()[0], self._sockets[0]
            self._sockets.append(near)
            threading.Thread(target=self._pass, args=(far, near), daemon=True).start()
            self._pass(near, far)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.num_pings += data.count(PING_FRAME)
                if not self.is_silent:
                    sink.sendall(data)


def test_a_silent_stream_outlives_a_client_that_pings_every_second(rig: Rig) -> None:
    """The server permits three pings too soon after one another, and no data resets its count."""
    gate = threading.Event()
    forward = rig.target.forward

    def held(rows: Any, width: int) -> Any:
        gate.wait(30)
        return forward(rows, width)

    rig.target.forward = held  # type: ignore[method-assign]
    serving = Serving(rig)
    wire = Wire(serving.address)
    try:
        with grpc.insecure_channel(wire.address, options=EVERY_SECOND) as channel:
            stub: Any = rpc.GenerationServiceStub(channel)
            stream = stub.Generate(pb.GenerateRequest(text="w1 w2", max_tokens=4))
            next(stream)
            wait_until(lambda: wire.num_pings >= 6 or stream.done(), 30)
            gate.set()
            assert [*stream][-1].finish.completion_tokens == 4
    finally:
        gate.set()
        wire.close()
        serving.close()


def test_the_request_of_a_client_that_vanished_ends(rig: Rig) -> None:
    slow_down(rig, 0.05)
    serving = Serving(rig, ping_s=1.0)
    wire = Wire(serving.address)
    try:
        with grpc.insecure_channel(wire.address) as channel:
            stub: Any = rpc.GenerationServiceStub(channel)
            stream = stub.Generate(pb.GenerateRequest(text="w1 w2", max_tokens=390))
            next(stream)
            wire.is_silent = True
            wait_until(lambda: serving.gateway.num_open == 0, 15)  # 390 tokens take 20 s
    finally:
        wire.close()
        serving.close()
