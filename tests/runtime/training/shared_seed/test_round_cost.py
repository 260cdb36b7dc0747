"""Bytes at the socket: a byte a direction, plus what gRPC puts around it."""

import socket
import threading

from runtime.links.relay import CountingRelay
from runtime.training.shared_seed.round_cost import wire_cost


def test_a_scalar_is_a_byte_on_the_wire() -> None:
    few = wire_cost(1, 1, 460_800, rounds=20)
    many = wire_cost(1, 65, 460_800, rounds=20)
    assert 63 <= many.up - few.up <= 68
    assert few.up < 130
    assert few.down < 160


def test_others_scalars_come_down_at_two_bytes_each() -> None:
    alone = wire_cost(1, 8, 460_800, rounds=12)
    among = wire_cost(5, 8, 460_800, rounds=12)
    assert 4 * 9 - 4 <= among.down - alone.down <= 4 * 9 + 8
    assert abs(among.up - alone.up) < 8
    assert among.allreduce == 2 * 4 * 4 * 460_800 // 5


def test_a_relay_counts_both_ways() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = CountingRelay(f"127.0.0.1:{server.getsockname()[1]}")

        def echo_twice() -> None:
            peer, _ = server.accept()
            with peer:
                data = peer.recv(100)
                peer.sendall(data + data)

        thread = threading.Thread(target=echo_twice)
        thread.start()
        host, _, port = relay.address.rpartition(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"x" * 50)
            found = b""
            while piece := client.recv(100):
                found += piece
        thread.join()
        relay.close()
    assert found == b"x" * 100
    assert (relay.num_up, relay.num_down) == (50, 100)
