"""A call is one span, with or without a wrapper around the server."""

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.requests.tracing import Tracing
from tests.support.rig import Rig
from tests.support.serving import Serving, slow_down

trace_sdk: Any = pytest.importorskip("opentelemetry.sdk.trace")
export: Any = pytest.importorskip("opentelemetry.sdk.trace.export")
memory: Any = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
instrumentation: Any = pytest.importorskip("opentelemetry.instrumentation.grpc")

PROMPT = pb.TokenIds(ids=(1, 2, 3))
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traced:
    """A server whose spans are kept."""

    def __init__(self, rig: Rig) -> None:
        self.exporter = memory.InMemorySpanExporter()
        provider = trace_sdk.TracerProvider()
        provider.add_span_processor(export.SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")
        self.serving = Serving(rig, tracing=Tracing(self.tracer))
        self._channel = grpc.insecure_channel(self.serving.address)
        self.stub: Any = rpc.GenerationServiceStub(self._channel)
        self.models: Any = rpc.ModelServiceStub(self._channel)

    def spans(self, num: int = 1) -> list[Any]:
        """Return the spans that have ended, at least so many."""
        end_s = time.monotonic() + 30
        while len(self.exporter.get_finished_spans()) < num and time.monotonic() < end_s:
            time.sleep(0.01)
        return list(self.exporter.get_finished_spans())

    def close(self) -> None:
        self._channel.close()
        self.serving.close()


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
    made.close()


def test_a_generation_is_one_span_that_tells_what_was_asked_and_done(traced: Traced) -> None:
    request = pb.GenerateRequest(
        token_ids=PROMPT, max_tokens=24, temperature=0.5, top_p=0.9, seed=7, request_id="mine"
    )
    events = list(traced.stub.Generate(request, metadata=(("traceparent", CALLER),)))
    (span,) = traced.spans()
    assert span.name == "text_completion toy"
    assert span.kind.name == "SERVER"
    assert f"{span.context.trace_id:032x}" == CALLER[3:35]
    assert f"{span.parent.span_id:016x}" == CALLER[36:52]
    stats = events[-1].finish.stats
    assert stats.accepted > 0
    expected = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "paceline",
        "gen_ai.request.model": "toy",
        "gen_ai.request.max_tokens": 24,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.seed": 7,
        "gen_ai.response.id": "mine",
        "gen_ai.response.model": "toy",
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 24,
        "paceline.drafted_tokens": stats.drafted,
        "paceline.accepted_tokens": stats.accepted,
        "rpc.method": "Generate",
        "rpc.grpc.status_code": 0,
    }
    assert {name: span.attributes.get(name) for name in expected} == expected
    assert 0 < span.attributes["gen_ai.response.time_to_first_chunk"] < 60


def test_what_a_request_leaves_out_is_no_attribute(traced: Traced) -> None:
    list(traced.stub.Generate(pb.GenerateRequest(token_ids=PROMPT)))
    (span,) = traced.spans()
    assert not {"gen_ai.request.temperature", "gen_ai.request.seed"} & set(span.attributes)


def test_a_rejected_call_is_a_span_with_its_status(traced: Traced) -> None:
    with pytest.raises(grpc.RpcError):
        list(traced.stub.Generate(pb.GenerateRequest(token_ids=pb.TokenIds())))
    (span,) = traced.spans()
    assert span.attributes["error.type"] == "INVALID_ARGUMENT"
    assert span.attributes["rpc.grpc.status_code"] == 3
    assert span.status.status_code.name == "ERROR"
    assert "prompt" in span.status.description


def test_a_reader_that_leaves_ends_its_span(rig: Rig, traced: Traced) -> None:
    slow_down(rig, 0.02)
    stream = traced.stub.Generate(pb.GenerateRequest(token_ids=PROMPT, max_tokens=300))
    next(stream)
    stream.cancel()
    (span,) = traced.spans()
    assert span.attributes["error.type"] == "CANCELLED"


def test_other_calls_are_spans_of_their_method(traced: Traced) -> None:
    traced.models.GetModel(pb.GetModelRequest())
    (span,) = traced.spans()
    assert span.name == "paceline.v1.ModelService/GetModel"


def test_under_a_wrapper_its_span_is_the_only_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`opentelemetry-instrument` puts its own interceptor before those of the program."""
    made = grpc.aio.server
    tracers: list[Any] = []

    def wrapped(*, interceptors: list[Any], **rest: Any) -> grpc.aio.Server:
        theirs = instrumentation.aio_server_interceptor(tracer_provider=tracers[0])
        return made(interceptors=[theirs, *interceptors], **rest)

    exporter = memory.InMemorySpanExporter()
    provider = trace_sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    tracers.append(provider)
    monkeypatch.setattr(grpc.aio, "server", wrapped)
    traced = Traced(rig)
    traced.exporter = exporter
    list(traced.stub.Generate(pb.GenerateRequest(token_ids=PROMPT, max_tokens=24)))
    (span,) = traced.spans()
    assert span.attributes["gen_ai.usage.output_tokens"] == 24
    assert span.attributes["rpc.method"] == "Generate"
    traced.close()
