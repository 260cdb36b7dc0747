"""What listens at an address, told within seconds: real sockets, no Ray."""

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest
from ray.core.generated import gcs_service_pb2
from typer.testing import CliRunner

from cluster.cli.main import app
from cluster.jobs.submit import _connect
from cluster.network.ray_address import check_joinable
from runtime.errors import ConfigError
from tests.support.integration.raylets import ROOT, free_port


@contextmanager
def a_head(reply: bytes, *, code: grpc.StatusCode = grpc.StatusCode.OK) -> Iterator[str]:
    """Serve the first call of a driver that wants to join."""

    def answer(_request: bytes, context: grpc.ServicerContext) -> bytes:
        if code is not grpc.StatusCode.OK:
            context.abort(code, "InvalidAuthToken")
        return reply

    calls = {"InternalKVGet": grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("ray.rpc.InternalKVGcsService", calls)]
    )
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def a_web_server() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_port_on_which_nothing_listens() -> None:
    with pytest.raises(ConfigError, match="no Ray cluster listens at --ray 127"):
        check_joinable(f"127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    "verb",
    [
        "generate --target /nowhere --prompt x",
        "serve --target /nowhere",
        "bench decode --target /nowhere --prompts PROMPTS",
        "bench layer-parallel --target /nowhere --prompts PROMPTS",
        "bench link",
        "draft train --target /nowhere --free-prompts 1 --out /tmp/paceline-nowhere",
        "draft skip --target /nowhere --prompts PROMPTS",
        "draft eval lookup --target /nowhere --prompts PROMPTS",
        "cluster check --target /nowhere",
        "service list",
        "service start x --target /nowhere",
    ],
)
def test_a_dead_address_is_found_before_a_model_is_looked_for(verb: str) -> None:
    prompts = str(ROOT / "tests" / "data" / "prompts.jsonl")
    words = [prompts if word == "PROMPTS" else word for word in verb.split()]
    address = f"127.0.0.1:{free_port()}"
    result = CliRunner().invoke(app, [*words, "--ray", address])
    assert isinstance(result.exception, ConfigError), result.output
    assert f"no Ray cluster listens at --ray {address}" in str(result.exception)


def test_a_name_without_an_address() -> None:
    with pytest.raises(ConfigError, match=r"listens at --ray nowhere\.invalid:6379"):
        check_joinable("nowhere.invalid:6379")


def test_a_socket_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.network.ray_address._PROBE_S", 0.5)
    with socket.create_server(("0.0.0.0", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(ConfigError, match=r"does not answer within 0\.5 s"):
            check_joinable(f"127.0.0.1:{port}")


def test_a_web_server_as_rays_dashboard_is() -> None:
    with a_web_server() as address, pytest.raises(ConfigError, match="is no Ray head"):
        check_joinable(address)


def test_a_dashboard_that_is_not_there_or_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no job server answers at .*Connection refused"):
        _connect(f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("cluster.jobs.submit._PROBE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(ConfigError, match=r"no job server answers at .*within 0\.5 s"):
            _connect(f"http://127.0.0.1:{port}")


def test_a_web_server_that_is_no_dashboard() -> None:
    with a_web_server() as address, pytest.raises(ConfigError, match="is no job server"):
        _connect(f"http://{address}")


def test_another_grpc_server() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    with pytest.raises(ConfigError, match="is no Ray head"):
        check_joinable(f"127.0.0.1:{port}")
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "requires a token, and none was given"),
        ({"authorization": "Bearer x"}, "requires another token"),
    ],
)
def test_a_head_that_requires_a_token(
    headers: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "cluster.network.ray_address._token_headers", lambda: headers
    )  # Ray keeps its own
    refused = pytest.raises(ConfigError, match=message)
    with a_head(b"", code=grpc.StatusCode.UNAUTHENTICATED) as address, refused:
        check_joinable(address)


def test_a_head_of_another_version() -> None:
    metadata = json.dumps({"ray_version": "1.13.0", "python_version": "3.7.1"}).encode()
    reply = gcs_service_pb2.InternalKVGetReply(value=metadata).SerializeToString()
    refused = pytest.raises(ConfigError, match=r"runs ray 1\.13\.0, this driver")
    with a_head(reply) as address, refused:
        check_joinable(address)
