"""Why an address does not answer HTTP, without waiting for name servers."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from runtime.node import http_probe
from runtime.node.http_probe import why_silent


class NotFound(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), NotFound)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_answer_of_any_status_is_an_answer(url: str) -> None:
    assert why_silent(url, timeout_s=30.0) == ""


def test_a_closed_port_is_rejected(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("http_proxy", raising=False)
    host, _, _ = url.rpartition(":")
    assert "refused" in why_silent(f"{host}:1", timeout_s=30.0)


def test_what_is_no_address_is_named() -> None:
    assert "unknown url type" in why_silent("paceline://host", timeout_s=30.0)


def test_a_look_up_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_: object) -> str:
        released.wait()
        return ""

    monkeypatch.setattr(http_probe, "_asked", hang)
    assert why_silent("http://host", timeout_s=0.01) == "no answer within 0.01 s"
    released.set()
