"""The translation of torch.distributed's errors, which differ by their text only."""

import socket

import pytest
import torch

from runtime.errors import ConfigError, PeerLost, PeerTimeout
from runtime.groups.gloo import connect_store, listen_store, make_nccl, translate


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[gloo/unbound_buffer.cc:81] Timed out waiting 1000ms for recv operation", PeerTimeout),
        ("wait timeout after 300ms", PeerTimeout),
        ("[gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:16263.", PeerLost),
        ("Application aborted", PeerLost),
        ("", PeerLost),
    ],
)
def test_every_text_becomes_one_of_our_errors(text: str, kind: type[Exception]) -> None:
    error = translate(text, peer="target rank 1 (pid 7)", timeout_s=2.5)
    assert type(error) is kind
    assert "target rank 1 (pid 7)" in str(error)


def test_a_store_listens_on_its_host_only() -> None:
    server = listen_store("127.0.0.1", timeout_s=2.0)
    connect_store("127.0.0.1", server.port, timeout_s=2.0).set("key", "value")
    assert server.store.get("key") == b"value"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), timeout=2.0)


def test_a_host_that_is_not_ours_is_rejected() -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        listen_store("192.0.2.1", timeout_s=1.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_nccl_without_a_device_is_rejected() -> None:
    server = listen_store("127.0.0.1", timeout_s=1.0)
    with pytest.raises(ConfigError, match="CUDA"):
        make_nccl(server.store, "x", rank=0, size=1, timeout_s=1.0)
