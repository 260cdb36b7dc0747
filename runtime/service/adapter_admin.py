"""Changes of a server's adapters, as its administrators ask for them."""

from collections.abc import Callable
from typing import Protocol

from protos.paceline.v1 import service_pb2 as pb
from runtime.errors import ConfigError
from runtime.gateway.gateway import Gateway
from runtime.requests.served_adapters import ServedAdapter
from runtime.requests.served_model import ServedModel


class AdapterControl(Protocol):
    """Changes the adapters while requests run."""

    def add(self, name: str, directory: str) -> ServedAdapter:
        """Serve an adapter under a name; block until all engines hold it.

        Raises:
            ConfigError: it cannot be served; what was served before stays.
            PeerError: an engine did not take it; what was served before stays.
        """
        ...

    def remove(self, name: str) -> ServedAdapter:
        """Reject new requests that name an adapter.

        Raises:
            ConfigError: there is none of this name.
        """
        ...


class AdapterAdmin:
    """Adds, removes and lists adapters."""

    def __init__(
        self, gateway: Gateway, model: ServedModel, control: AdapterControl | None
    ) -> None:
        self._gateway = gateway
        self._model = model
        self._control = control

    def adding(self, request: pb.AddAdapterRequest) -> Callable[[], pb.AddAdapterResponse]:
        """Return what adds an adapter; it blocks."""
        control = self._controlled()
        return lambda: pb.AddAdapterResponse(
            adapter=self._status(control.add(request.name, request.directory))
        )

    def removing(self, request: pb.RemoveAdapterRequest) -> Callable[[], pb.RemoveAdapterResponse]:
        """Return what removes an adapter."""
        control = self._controlled()
        return lambda: pb.RemoveAdapterResponse(adapter=self._status(control.remove(request.name)))

    def list(self) -> pb.ListAdaptersResponse:
        """Return the adapters that requests can name."""
        return pb.ListAdaptersResponse(adapters=map(self._status, self._model.adapters.served))

    def _controlled(self) -> AdapterControl:
        if self._control is None:
            raise ConfigError("this server cannot change its adapters")
        return self._control

    def _status(self, adapter: ServedAdapter) -> pb.AdapterStatus:
        counts = self._gateway.metrics.adapters.get(adapter.name)
        status = pb.AdapterStatus(
            name=adapter.name,
            version=adapter.version,
            directory=str(adapter.directory),
            num_bytes=adapter.num_bytes,
            open_requests=self._gateway.num_open_with(adapter.name),
        )
        if counts is not None:
            status.finished, status.tokens = counts.finished, counts.tokens
            status.drafted, status.accepted = counts.drafted, counts.accepted
        return status
