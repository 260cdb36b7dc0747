"""What monitoring asks: /health, /ready and /metrics."""

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.gateway.gateway import Gateway
from runtime.http.http_errors import RETRY_AFTER_S


class Probes:
    """Answers about the state of the server."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def health(self, _: Request) -> Response:
        """Answer that the process is alive."""
        return JSONResponse({"status": "alive"})

    async def ready(self, _: Request) -> Response:
        """Answer whether a new request would be served soon: 200 or 503."""
        if self._gateway.is_ready:
            return JSONResponse({"status": "ready"})
        status = "draining" if self._gateway.is_draining else "not ready"
        return JSONResponse({"status": status}, 503, {"retry-after": str(RETRY_AFTER_S)})

    async def metrics(self, _: Request) -> Response:
        """Return the page for Prometheus."""
        page = generate_latest(self._gateway.metrics.registry)
        return Response(page, media_type=CONTENT_TYPE_LATEST)
