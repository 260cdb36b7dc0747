"""OpenTelemetry traces of the service's calls, where its packages are installed."""

import importlib
from typing import Any

import grpc


def tracing_interceptors() -> list[grpc.aio.ServerInterceptor]:  # type: ignore[type-arg]  # stubs
    """Return the interceptor that opentelemetry-instrumentation-grpc offers, or none.

    Where spans go is up to the OTEL_* variables or the program around; without the package nothing
    is traced.
    """
    try:
        instrumentation: Any = importlib.import_module("opentelemetry.instrumentation.grpc")
    except ImportError:
        return []
    return [instrumentation.aio_server_interceptor()]
