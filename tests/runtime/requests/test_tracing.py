"""Where spans go is up to the OTEL_* variables; a real collector receives them."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import pytest

from runtime.requests.tracing import Tracing

pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")
collector: Any = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
collector_rpc: Any = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc"
)


class Collector(collector_rpc.TraceServiceServicer):  # type: ignore[misc]  # untyped
    """Keeps what is exported to it."""

    def __init__(self) -> None:
        self.requests: Queue[Any] = Queue()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802  (gRPC's name)
        self.requests.put(request)
        return collector.ExportTraceServiceResponse()


@pytest.fixture
def receiving() -> Iterator[tuple[str, Collector]]:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    service = Collector()
    collector_rpc.add_TraceServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}", service
    server.stop(None).wait()


@pytest.mark.parametrize(
    "extra", [{}, {"OTEL_TRACES_EXPORTER": "otlp"}, {"OTEL_SERVICE_NAME": "named"}]
)
def test_an_endpoint_alone_turns_traces_on(
    receiving: tuple[str, Collector], extra: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, service = receiving
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} | extra
    for name, value in environ.items():
        monkeypatch.setenv(name, value)  # the exporter reads its own
    tracing = Tracing.start(environ)
    assert tracing is not None
    tracing.server_span("once", {}).end()
    tracing.close()
    (resource,) = service.requests.get(timeout=30).resource_spans
    assert service.requests.empty()
    (scope,) = resource.scope_spans
    assert [span.name for span in scope.spans] == ["once"]
    about = {entry.key: entry.value.string_value for entry in resource.resource.attributes}
    assert about["service.name"] == extra.get("OTEL_SERVICE_NAME", "paceline")
    assert about["service.version"]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_nothing_is_traced_where_nothing_asks_for_it(environ: dict[str, str]) -> None:
    assert Tracing.start(environ) is None


def test_an_unknown_exporter_is_a_warning_and_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    assert Tracing.start({"OTEL_TRACES_EXPORTER": "carrier-pigeon"}) is None
    assert "no traces to 'carrier-pigeon'" in caplog.text
    assert "pip install 'paceline[tracing]'" in caplog.text


def test_without_the_packages_the_variables_are_a_warning(tmp_path: Path) -> None:
    blocked = tmp_path / "opentelemetry.py"  # stands before the real package
    blocked.write_text("raise ImportError('not installed')")
    code = (
        "import logging; logging.basicConfig(); from runtime.requests.tracing import Tracing; "
        "print(Tracing.start({'OTEL_TRACES_EXPORTER': 'console'}), Tracing.start({}))"
    )
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert found.stdout.split() == ["None", "None"]
    assert found.stderr.count("opentelemetry-sdk is not installed") == 1
