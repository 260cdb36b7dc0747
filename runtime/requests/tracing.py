"""OpenTelemetry: export the spans of the service's calls as the OTEL_* variables say.

The packages are optional (`pip install 'paceline[tracing]'`), and tracing never fails a request.
"""

import importlib
import logging
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from runtime.version import package_version

_LOG = logging.getLogger("paceline.tracing")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_REMEDY = "pip install 'paceline[tracing]'"


class Tracing:
    """Creates spans, and exports them until it is closed."""

    def __init__(self, tracer: Any, *, close: Callable[[], None] | None = None) -> None:
        """Prepare to trace.

        Args:
            tracer: an OpenTelemetry tracer.
            close: exports the last spans and stops; None if another owner does that.
        """
        self.tracer = tracer
        self._close = close
        self._trace: Any = importlib.import_module("opentelemetry.trace")
        self._propagate: Any = importlib.import_module("opentelemetry.propagate")

    @classmethod
    def start(cls, environ: Mapping[str, str]) -> "Tracing | None":
        """Start tracing if the OTEL_* variables enable it; None if not, or if a package is missing.

        Under `opentelemetry-instrument` its provider is used.
        """
        names = _exporters(environ)
        try:
            trace: Any = importlib.import_module("opentelemetry.trace")
        except ImportError:
            if names:
                _LOG.warning("no traces: opentelemetry-sdk is not installed: %s", _REMEDY)
            return None
        provider = trace.get_tracer_provider()
        if not isinstance(provider, trace.ProxyTracerProvider):
            return cls(provider.get_tracer("paceline"))
        if not names:
            return None
        made = _provider(names, environ)
        return None if made is None else cls(made.get_tracer("paceline"), close=made.shutdown)

    def close(self) -> None:
        """Export the last spans; blocks at most for the exporter's time-out."""
        if self._close is not None:
            self._close()

    def is_traced(self) -> bool:
        """Return whether the current call already has a span, from a wrapper."""
        return bool(self._trace.get_current_span().is_recording())

    def current_span(self) -> Any:
        """Return the span of the current call."""
        return self._trace.get_current_span()

    def server_span(self, name: str, metadata: Mapping[str, str]) -> Any:
        """Start the span of a call, which the caller ends; `metadata` may name the parent span."""
        parent = self._propagate.extract(metadata)
        return self.tracer.start_span(name, context=parent, kind=self._trace.SpanKind.SERVER)

    def error_status(self, text: str) -> Any:
        """Return the status of a span whose call failed."""
        return self._trace.Status(self._trace.StatusCode.ERROR, text)


def _exporters(environ: Mapping[str, str]) -> list[str]:
    """Return the names of the exporters that the variables enable."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    default = "otlp" if any(environ.get(name) for name in _ENDPOINTS) else "none"
    names_text = environ.get("OTEL_TRACES_EXPORTER", "").strip() or default
    names = [name.strip() for name in names_text.split(",")]
    return [name for name in names if name and name != "none"]


def _provider(names: list[str], environ: Mapping[str, str]) -> Any:
    """Return a provider that exports to all of them, or None with a warning."""
    try:
        sdk: Any = importlib.import_module("opentelemetry.sdk.trace")
        export: Any = importlib.import_module("opentelemetry.sdk.trace.export")
        resources: Any = importlib.import_module("opentelemetry.sdk.resources")
    except ImportError:
        _LOG.warning("no traces: opentelemetry-sdk is not installed: %s", _REMEDY)
        return None
    about = {"service.version": package_version()}
    if "service.name" not in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        about["service.name"] = environ.get("OTEL_SERVICE_NAME") or "paceline"
    provider = sdk.TracerProvider(resource=resources.Resource.create(about))
    num_exporters = 0
    for name in names:
        exporter = _exporter(name, environ)
        if exporter is not None:
            provider.add_span_processor(export.BatchSpanProcessor(exporter))
            num_exporters += 1
    return provider if num_exporters else None


def _exporter(name: str, environ: Mapping[str, str]) -> Any:
    """Return an exporter, or None with a warning."""
    if name == "otlp":
        protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"
        )
        name = "otlp_proto_http" if protocol.startswith("http") else "otlp_proto_grpc"
    found = list(entry_points(group="opentelemetry_traces_exporter", name=name))
    if not found:
        _LOG.warning("no traces to %r: no installed package exports to it: %s", name, _REMEDY)
        return None
    try:
        return found[0].load()()
    except Exception as error:  # an invalid setting must not stop the service
        _LOG.warning("no traces to %r: %s", name, error)
        return None
