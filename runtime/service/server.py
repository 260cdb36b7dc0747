"""The server around the servicers: credentials, tokens, health, reflection, draining."""

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
from runtime.service.admin import AdminServicer, DrafterControl
from runtime.service.call import CallInterceptor
from runtime.service.identity import AcceptedTokens, TokenInterceptor
from runtime.service.malformed_requests import MalformedRequestInterceptor
from runtime.service.prompt_reader import PromptReader
from runtime.service.served_model import ServedModel
from runtime.service.servicer import GenerationServicer, ModelServicer
from runtime.service.spans import SpanInterceptor
from runtime.service.tracing import Tracing

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
    """Where and for whom a server listens."""

    address: str
    tokens: tuple[str, ...] = ()
    """Bearer tokens that are let in; none lets everybody in."""
    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None
    """Clients must have a certificate of this authority."""
    reflection: bool = True
    admin_tokens: tuple[str, ...] = ()
    """Bearer tokens that may drain the server and change its drafter; none lets in whom `tokens`
    lets in."""
    max_message_bytes: int = 16 * 1024 * 1024
    max_streams: int = 1024
    ping_s: float = PING_S
    """Silence of a connection after which it is pinged: a client whose host vanished is noticed."""

    def __post_init__(self) -> None:
        """Refuse tokens that no client can send."""
        for field in ("tokens", "admin_tokens"):
            for number, token in enumerate(getattr(self, field)):
                check_token(token, f"{field}[{number}]")


class ServiceServer:
    """One listening server; lives on one asyncio loop."""

    def __init__(
        self,
        gateway: Gateway,
        model: ServedModel,
        settings: ServerSettings,
        control: DrafterControl | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._gateway = gateway
        self._control = control
        self._tracing = tracing
        self._model = model
        self._settings = settings
        self._reader = PromptReader()
        self._health = health.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._watch: asyncio.Task[None] | None = None
        self.address = settings.address
        """Where it listens; the port is known once it has started."""

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            ConfigError: the address or a credential cannot be used.
        """
        settings = self._settings
        tls = server_credentials(settings.certificate, settings.private_key, settings.client_ca)
        interceptors: list[grpc.aio.ServerInterceptor] = [ReleasingInterceptor()]  # type: ignore[type-arg]  # stubs alone
        if self._tracing is not None:
            interceptors.append(SpanInterceptor(self._tracing, self._model.name))
        interceptors.append(MalformedRequestInterceptor())
        tokens = AcceptedTokens(users=settings.tokens, admins=settings.admin_tokens)
        if tokens:
            interceptors.append(TokenInterceptor(tokens, self._denied))
        interceptors.append(CallInterceptor(self._gateway, _GENERATE))  # of calls that were let in
        size = settings.max_message_bytes
        options = (
            *_OPTIONS,
            *pinging(settings.ping_s),
            ("grpc.max_receive_message_length", size),
            ("grpc.max_concurrent_streams", settings.max_streams),
        )
        server = grpc.aio.server(interceptors=interceptors, options=options)
        generation = GenerationServicer(self._gateway, self._model, tokens, self._reader)
        rpc.add_GenerationServiceServicer_to_server(generation, server)
        model = ModelServicer(self._model, self._reader)
        rpc.add_ModelServiceServicer_to_server(model, server)
        admin = AdminServicer(self._gateway, self._model, self._control)
        rpc.add_AdminServiceServicer_to_server(admin, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if settings.reflection:
            names = (*_SERVICES, _HEALTH, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        self.address = listen(server, settings.address, tls)
        await self._gateway.start()
        await self._tell("", serving=True)
        await server.start()
        self._server = server
        self._watch = asyncio.create_task(self._watch_gateway())

    async def stop(self, drain_s: float) -> bool:
        """Refuse what is new, let what runs finish, then close; False if the time did not do."""
        self._gateway.drain()
        await self._tell_all(serving=False)
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
            self._gateway.endings.refused(client, "", CallDenied(reason))

    async def _watch_gateway(self) -> None:
        """Keep readiness true: it falls with the engine, and when its last step is too old."""
        told: bool | None = None
        while True:
            ready = self._gateway.is_ready
            if ready != told:
                await self._tell_all(serving=ready)
                told = ready
            await asyncio.sleep(_HEALTH_POLL_S)

    async def _tell_all(self, *, serving: bool) -> None:
        for name in _SERVICES:
            await self._tell(name, serving=serving)

    async def _tell(self, name: str, *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.ServingStatus
        await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)
