"""A request to the API is one span, with the attributes that a call over gRPC has."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from runtime.requests.tracing import Tracing
from tests.support.rig import Rig
from tests.support.serving import Serving, slow_down
from tests.support.waiting import wait_until

trace_sdk: Any = pytest.importorskip("opentelemetry.sdk.trace")
export: Any = pytest.importorskip("opentelemetry.sdk.trace.export")
memory: Any = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BODY = {"prompt": "w1 w2 w3", "max_tokens": 24, "temperature": 0.5, "seed": 7}


class Traced:
    """A server whose spans are kept."""

    def __init__(self, rig: Rig) -> None:
        self._exporter = memory.InMemorySpanExporter()
        provider = trace_sdk.TracerProvider()
        provider.add_span_processor(export.SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer("test")
        self.serving = Serving(rig, http={}, tracing=Tracing(self.tracer))

    def post(self, path: str = "/v1/completions", **fields: Any) -> httpx.Response:
        headers = {"traceparent": CALLER}
        return httpx.post(f"{self.serving.url}{path}", json=BODY | fields, headers=headers)

    def span(self) -> Any:
        """Return the only span that has ended."""
        wait_until(self._exporter.get_finished_spans)
        (span,) = self._exporter.get_finished_spans()
        return span


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    made.attach_model(noise=0.2)
    yield made
    made.close()


@pytest.fixture
def traced(rig: Rig) -> Iterator[Traced]:
    made = Traced(rig)
    yield made
    made.serving.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_generation_is_one_span_that_tells_what_was_asked_and_done(
    traced: Traced, stream: bool
) -> None:
    answer = traced.post(stream=stream, stream_options={"include_usage": True} if stream else None)
    span = traced.span()
    assert span.name == "text_completion toy"
    assert span.kind.name == "SERVER"
    assert f"{span.context.trace_id:032x}" == CALLER[3:35]
    assert f"{span.parent.span_id:016x}" == CALLER[36:52]
    expected = {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "network.peer.address": "127.0.0.1",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "toy",
        "gen_ai.request.stream": stream,
        "gen_ai.request.max_tokens": 24,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 7,
        "gen_ai.response.id": answer.headers["x-request-id"],
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 24,
    }
    assert {name: span.attributes.get(name) for name in expected} == expected
    assert span.attributes["paceline.accepted_tokens"] > 0
    assert 0 < span.attributes["gen_ai.response.time_to_first_chunk"] < 60
    assert span.status.status_code.name == "UNSET"


def test_a_rejected_request_has_its_status_and_is_no_error_of_the_server(traced: Traced) -> None:
    assert traced.post(prompt=[]).status_code == 400
    span = traced.span()
    assert span.attributes["http.response.status_code"] == 400
    assert "error.type" not in span.attributes
    assert span.status.status_code.name == "UNSET"


@pytest.mark.parametrize("stream", [False, True])
def test_what_fails_is_an_error(rig: Rig, traced: Traced, stream: bool) -> None:
    slow_down(rig, 0.02)
    answer = traced.post(stream=stream, max_tokens=300, timeout_s=0.3)
    assert answer.status_code == (200 if stream else 504)
    span = traced.span()
    assert span.attributes["error.type"] == ("DeadlineExceeded" if stream else "504")
    assert span.status.status_code.name == "ERROR"


def test_a_client_that_leaves_ends_its_span(rig: Rig, traced: Traced) -> None:
    slow_down(rig, 0.02)
    body = BODY | {"stream": True, "max_tokens": 300}
    with httpx.stream("POST", f"{traced.serving.url}/v1/completions", json=body) as answer:
        next(answer.iter_lines())
    assert traced.span().attributes["error.type"] == "CANCELLED"


def test_other_calls_are_spans_and_probes_are_not(traced: Traced) -> None:
    for path in ("/health", "/ready", "/metrics", "/", "/nowhere", "/v1/models"):
        httpx.get(f"{traced.serving.url}{path}")
    assert traced.span().name == "GET /v1/models"
