"""The gRPC server: credentials, interceptors, servicers, health, reflection and draining."""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health  # type: ignore[attr-defined]  # set at import
from grpc_reflection.v1alpha import reflection

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.channels.keepalive import PERMITTING, PING_S, pinging
from runtime.channels.listening import listen, server_credentials
from runtime.channels.releasing import ReleasingInterceptor
from runtime.channels.tokens import check_token
from runtime.gateway.gateway import Gateway
from runtime.gateway.limits import CallDenied
from runtime.requests.accepted_tokens import AcceptedTokens
from runtime.requests.admission import Admission
from runtime.requests.prompt_reader import PromptReader
from runtime.requests.served_model import ServedModel
from runtime.requests.tracing import Tracing
from runtime.service.adapter_admin import AdapterControl
from runtime.service.admin import AdminServicer, DrafterControl
from runtime.service.call import CallInterceptor
from runtime.service.identity import TokenInterceptor
from runtime.service.malformed_requests import MalformedRequestInterceptor
from runtime.service.servicer import GenerationServicer, ModelServicer
from runtime.service.spans import SpanInterceptor

_LOG = logging.getLogger("paceline.server")
_SERVICES = tuple(service.full_name for service in pb.DESCRIPTOR.services_by_name.values())
_GENERATE = f"/{pb.DESCRIPTOR.services_by_name['GenerationService'].full_name}/Generate"
_HEALTH = "grpc.health.v1.Health"
_HEALTH_POLL_S = 0.5
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a lottery
    *PERMITTING,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Address, credentials and limits of a server."""

    address: str
    tokens: tuple[str, ...] = ()
    """Accepted bearer tokens; if empty, calls need no token."""
    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None
    """Clients must have a certificate of this authority."""
    reflection: bool = True
    admin_tokens: tuple[str, ...] = ()
    """Bearer tokens that may drain the server and change its drafter; if empty, those of `tokens`
    may."""
    max_message_bytes: int = 16 * 1024 * 1024
    max_streams: int = 1024
    ping_s: float = PING_S
    """A connection without traffic for this long is pinged, which detects clients that vanished."""

    @property
    def accepted_tokens(self) -> AcceptedTokens:
        """The tokens, for every wire of the server."""
        return AcceptedTokens(users=self.tokens, admins=self.admin_tokens)

    def __post_init__(self) -> None:
        """Reject tokens that no client can send."""
        for field in ("tokens", "admin_tokens"):
            for number, token in enumerate(getattr(self, field)):
                check_token(token, f"{field}[{number}]")


class ServiceServer:
    """A listening server on one asyncio loop."""

    def __init__(
        self,
        gateway: Gateway,
        model: ServedModel,
        settings: ServerSettings,
        control: DrafterControl | None = None,
        tracing: Tracing | None = None,
        adapters: AdapterControl | None = None,
    ) -> None:
        self._gateway = gateway
        self._adapters = adapters
        self._control = control
        self._tracing = tracing
        self._model = model
        self.settings = settings
        self._reader = PromptReader()
        self.admission = Admission(gateway, model, self._reader)
        """Admits requests; other wires of this server share it."""
        self._health = health.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._watch: asyncio.Task[None] | None = None
        self.address = settings.address
        """Where it listens; has the actual port once started."""

    async def start(self) -> None:
        """Start to listen.

        Raises:
            ConfigError: the address or a credential cannot be used.
        """
        settings = self.settings
        tls = server_credentials(settings.certificate, settings.private_key, settings.client_ca)
        interceptors: list[grpc.aio.ServerInterceptor] = [ReleasingInterceptor()]  # type: ignore[type-arg]  # stubs alone
        if self._tracing is not None:
            interceptors.append(SpanInterceptor(self._tracing, self._model.name))
        interceptors.append(MalformedRequestInterceptor())
        tokens = settings.accepted_tokens
        if tokens:
            interceptors.append(TokenInterceptor(tokens, self._denied))
        interceptors.append(CallInterceptor(self._gateway, _GENERATE))  # for permitted calls
        size = settings.max_message_bytes
        options = (
            *_OPTIONS,
            *pinging(settings.ping_s),
            ("grpc.max_receive_message_length", size),
            ("grpc.max_concurrent_streams", settings.max_streams),
        )
        server = grpc.aio.server(interceptors=interceptors, options=options)
        generation = GenerationServicer(self.admission, tokens)
        rpc.add_GenerationServiceServicer_to_server(generation, server)
        model = ModelServicer(self._model, self._reader)
        rpc.add_ModelServiceServicer_to_server(model, server)
        admin = AdminServicer(self._gateway, self._model, self._control, self._adapters)
        rpc.add_AdminServiceServicer_to_server(admin, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if settings.reflection:
            names = (*_SERVICES, _HEALTH, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        self.address = listen(server, settings.address, tls)
        await self._gateway.start()
        await self._set_health("", serving=True)
        await server.start()
        self._server = server
        self._watch = asyncio.create_task(self._watch_gateway())

    async def stop(self, drain_s: float) -> bool:
        """Drain for at most `drain_s`, then close; return whether all requests finished."""
        self._gateway.drain()
        await self._set_all_health(serving=False)
        finished = await self._gateway.drained(drain_s)
        if self._watch is not None:
            self._watch.cancel()
        await self._gateway.close()
        if self._server is not None:
            await self._server.stop(grace=1.0)
        self._reader.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
        return finished

    def _denied(self, method: str, client: str, reason: str) -> None:
        if method == _GENERATE:
            self._gateway.endings.rejected(client, "", CallDenied(reason))

    async def _watch_gateway(self) -> None:
        """Keep the health service up to date: not serving without an engine or a recent step."""
        shown: bool | None = None
        while True:
            ready = self._gateway.is_ready
            if ready != shown:
                await self._set_all_health(serving=ready)
                shown = ready
            await asyncio.sleep(_HEALTH_POLL_S)

    async def _set_all_health(self, *, serving: bool) -> None:
        for name in _SERVICES:
            await self._set_health(name, serving=serving)

    async def _set_health(self, name: str, *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.ServingStatus
        await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)
