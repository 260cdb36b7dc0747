"""The sequencer as a gRPC service: tokens, machines' secrets, and long waits for a round's end."""

import asyncio
import contextlib
import hmac
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from parallel.training.shared_seed.round_messages import RoundAnswer
from protos.paceline.v1 import seedlog_pb2 as pb
from protos.paceline.v1 import seedlog_pb2_grpc as rpc
from runtime.channels.keepalive import PERMITTING
from runtime.channels.listening import listen, server_credentials
from runtime.channels.releasing import ReleasingInterceptor
from runtime.errors import PacelineError
from runtime.training.shared_seed.port import LEAN_OPTIONS
from runtime.training.shared_seed.sequencer import Rejected, Sequencer
from runtime.training.shared_seed.wire import answer_to_wire, header_to_wire, report_from_wire

_POLL_S = 0.01
_LONGEST_WAIT_S = 20.0
_PIECE_BYTES = 1 << 20
_START_S = 20.0
_OPTIONS = (
    *LEAN_OPTIONS,
    *PERMITTING,
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 1 << 16),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenSettings:
    """Address and credentials of the sequencer's service."""

    address: str
    tokens: tuple[str, ...] = ()
    """One for each worker: two machines with one token do not work at the same time. Without any,
    every worker is accepted."""
    inner_tokens: tuple[str, ...] = ()
    """Tokens of the job's own workers."""
    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None


class SeedLogServer:
    """A listening sequencer, on an event loop in a thread of its own."""

    def __init__(
        self,
        sequencer: Sequencer,
        settings: ListenSettings,
        *,
        terms: str,
        snapshot: Path,
        inner: str = "",
    ) -> None:
        """Prepare.

        Args:
            sequencer: what is served.
            settings: address and credentials.
            terms: the workers' terms as JSON.
            snapshot: the snapshot file from which machines join, if it exists.
            inner: another address, in plaintext, for the job's own workers; "" is none.
        """
        self.sequencer = sequencer
        self.inner_address = inner
        self.address = settings.address
        """Its address; the port is known once it has started."""
        self._settings = settings
        self._terms = terms
        self._snapshot = snapshot
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: grpc.aio.Server | None = None
        self._ticking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start listening.

        Raises:
            ConfigError: the address or a credential cannot be used.
        """
        self._thread.start()
        try:
            self._run(self._start()).result(_START_S)
        except BaseException:
            self.stop()
            raise

    def check(self) -> None:
        """Raise PacelineError if closing rounds has failed, for example because of a full disk.

        Raises:
            PacelineError: names the cause.
        """
        ticking = self._ticking
        if ticking is not None and ticking.done() and not ticking.cancelled():
            raise PacelineError(f"the sequencer cannot continue: {ticking.exception()!r}")

    def stop(self, grace_s: float = 0.5) -> None:
        """Stop listening."""
        self._run(self._stop(grace_s)).result(grace_s + _START_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> "Future[None]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _start(self) -> None:
        settings = self._settings
        server = grpc.aio.server(interceptors=[ReleasingInterceptor()], options=_OPTIONS)
        servicer = SeedLogServicer(
            self.sequencer, settings, terms=self._terms, snapshot=self._snapshot
        )
        rpc.add_SeedLogServiceServicer_to_server(servicer, server)
        tls = server_credentials(settings.certificate, settings.private_key, settings.client_ca)
        self.address = listen(server, settings.address, tls)
        if self.inner_address:
            self.inner_address = listen(server, self.inner_address, None, "inner address")
        await server.start()
        self._server = server
        self._ticking = asyncio.create_task(servicer.tick())

    async def _stop(self, grace_s: float) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        if self._server is not None:
            await self._server.stop(grace_s)


class SeedLogServicer(rpc.SeedLogServiceServicer):
    """Answers the calls of machines."""

    def __init__(
        self, sequencer: Sequencer, settings: ListenSettings, *, terms: str, snapshot: Path
    ) -> None:
        self._sequencer = sequencer
        known = (*settings.tokens, *settings.inner_tokens)
        self._tokens = tuple(token.encode() for token in known)
        self._is_open = not settings.tokens
        self._terms = terms
        self._snapshot = snapshot
        self._round_ended = asyncio.Event()

    async def tick(self) -> None:
        """Close rounds whose time is over, until cancelled."""
        while True:
            self._poll()
            await asyncio.sleep(_POLL_S)

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinResponse:
        """Register the caller as a machine."""
        owner = await self._owner(context)
        try:
            machine, secret = self._sequencer.join(
                request.name, owner=owner, observes=request.observes
            )
        except Rejected as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return pb.JoinResponse(
            machine=machine,
            secret=secret,
            header=header_to_wire(self._sequencer.header),
            terms_json=self._terms,
        )

    async def Exchange(self, request: pb.ExchangeRequest, context: Any) -> pb.ExchangeResponse:
        """Receive a round's bytes, and wait for its end."""
        machine, report = request.machine, report_from_wire(request)
        try:
            receipt = self._sequencer.take(machine, request.secret, report)
        except Rejected as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        self._poll()
        wait_s = min(request.wait_ms / 1000, _LONGEST_WAIT_S)
        if self._sequencer.round == report.round and not self._sequencer.is_done:
            with contextlib.suppress(TimeoutError):  # the answer shows that it is still open
                await asyncio.wait_for(self._round_ended.wait(), wait_s)
        answer: RoundAnswer = self._sequencer.answer(machine, report, receipt)
        return answer_to_wire(answer)

    async def GetSnapshot(
        self, request: pb.GetSnapshotRequest, context: Any
    ) -> AsyncIterator[pb.GetSnapshotResponse]:
        """Send the snapshot file, if there is one."""
        try:
            self._sequencer.known(request.machine, request.secret)
        except Rejected as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        try:
            data = await asyncio.to_thread(self._snapshot.read_bytes)
        except FileNotFoundError:
            return
        for first in range(0, len(data), _PIECE_BYTES):
            yield pb.GetSnapshotResponse(piece=data[first : first + _PIECE_BYTES])

    def _poll(self) -> None:
        if self._sequencer.poll() is not None:
            ended, self._round_ended = self._round_ended, asyncio.Event()
            ended.set()

    async def _owner(self, context: Any) -> str:
        """Return the owner of the caller's token; "" if no token is required."""
        given = str(dict(context.invocation_metadata() or ()).get("authorization", ""))
        kind, _, token = given.partition(" ")
        # All are compared in constant time, so the time reveals nothing about a near match.
        same = [hmac.compare_digest(token.encode(), mine) for mine in self._tokens]
        if kind.lower() == "bearer" and any(same):
            return f"token {same.index(True)}"
        if not self._is_open:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no valid bearer token was sent")
        return ""
