"""Links between processes or hosts, each over one bidirectional gRPC stream.

The sync API is used because it is faster: 64-byte round trip over loopback, p50 300 us
(asyncio 500 us; 2-core machine, grpcio 1.85, 2026-11-23).
"""

import hmac
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from parallel.messages import Hello, Message
from protos.paceline.v1 import link_pb2 as pb
from runtime.channels.channel import open_internal_channel
from runtime.channels.grpc_logging import quiet_grpc
from runtime.channels.keepalive import PERMITTING, pinging
from runtime.errors import ConfigError, PacelineError, PeerLost, PeerTimeout, ProtocolError
from runtime.links.codec import parse
from runtime.links.from_wire import from_frame
from runtime.links.inbox import Inbox
from runtime.links.link import Link
from runtime.links.to_wire import to_frame

MAX_MESSAGE_BYTES = 64 << 20
SERVICE = "paceline.v1.LinkService"

_HELLO_S = 10.0  # for an accepted stream to send its Hello
_CLOSE_S = 2.0  # close waits this long until queued frames are sent
_SEND_S = 20.0  # send waits this long for a peer that reads nothing
_MAX_QUEUED = 1024  # queued frames at which send starts to wait

# How gRPC's status codes are translated; all others mean that the peer is lost.
STATUS_ERRORS: dict[grpc.StatusCode, type[PacelineError]] = {
    grpc.StatusCode.UNAUTHENTICATED: ConfigError,
    grpc.StatusCode.INVALID_ARGUMENT: ProtocolError,
    grpc.StatusCode.UNIMPLEMENTED: ProtocolError,
    grpc.StatusCode.DEADLINE_EXCEEDED: PeerTimeout,
}


class GrpcLink:
    """One end of a stream; a thread of the stream's owner fills its inbox."""

    def __init__(
        self, peer: str, *, wrap: Callable[[pb.Frame], bytes], hang_up: Callable[[], None]
    ) -> None:
        self._peer = peer
        self._wrap = wrap
        self._hang_up = hang_up
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._room = threading.Event()
        self.inbox = Inbox()
        self.ended = threading.Event()

    @property
    def peer(self) -> str:
        """The other side's name."""
        return self._peer

    @peer.setter
    def peer(self, name: str) -> None:
        self._peer = name

    def send(self, message: Message) -> None:
        """Queue one message for the stream; see `Link.send`."""
        end = self.inbox.end
        if end is not None:
            raise end
        data = self._wrap(to_frame(message))
        if self._outbox.qsize() >= _MAX_QUEUED:
            self._wait_for_room()
        self._outbox.put(data)

    def recv(self, timeout_s: float) -> Message | None:
        """Return the next message or None; see `Link.recv`."""
        return self.inbox.get(timeout_s)

    def close(self) -> None:
        """End the stream after sending the queued frames, which takes at most 2 s."""
        self.finish(PeerLost(f"the link to {self._peer} is closed"))
        self.ended.wait(_CLOSE_S)
        self._hang_up()

    def finish(self, reason: PacelineError) -> None:
        """Stop sending and receiving messages."""
        self.inbox.fail(reason)
        self._outbox.put(None)

    def outgoing(self) -> Iterator[bytes]:
        """Yield the frames to send until the link ends; runs in gRPC's writing thread."""
        while (data := self._outbox.get()) is not None:
            yield data
            self._room.set()

    def _wait_for_room(self) -> None:
        while self._outbox.qsize() >= _MAX_QUEUED:
            self._room.clear()
            if not self._room.wait(_SEND_S):
                error = PeerLost(f"{self._peer} took no message for {_SEND_S:g} s")
                self.finish(error)
                self._hang_up()
                raise error


class GrpcLinkServer:
    """Accepts links and passes each one to `on_link` after its Hello.

    Every link holds one worker of the server (it writes), one reading thread, and the thread that
    runs `on_link`, which may block. At most `max_links` are open at once;
    further ones are rejected.
    """

    def __init__(
        self,
        host: str,
        port: int = 0,
        *,
        token: str,
        on_link: Callable[[Hello, Link], None],
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_links: int = 16,
        hello_timeout_s: float = _HELLO_S,
    ) -> None:
        if not token:
            raise ConfigError("a link server needs a non-empty token")
        quiet_grpc()
        self._token = token
        self._on_link = on_link
        self._hello_timeout_s = hello_timeout_s
        self._links: set[GrpcLink] = set()
        self._threads: set[threading.Thread] = set()
        options = [
            *_options(max_message_bytes),
            ("grpc.so_reuseport", 0),
            *PERMITTING,
        ]
        self._pool = ThreadPoolExecutor(max_links, thread_name_prefix="grpc-link")
        self._server = grpc.server(
            self._pool,
            options=options,
            maximum_concurrent_rpcs=max_links,
        )
        handler = grpc.stream_stream_rpc_method_handler(self._connect)
        service = grpc.method_handlers_generic_handler(SERVICE, {"Connect": handler})
        self._server.add_generic_rpc_handlers((service,))
        try:
            self.port: int = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error}") from error
        self.address = f"{host}:{self.port}"
        self._server.start()

    def close(self) -> None:
        """Close all links and stop listening; blocks for a few seconds at most."""
        for link in list(self._links):
            link.close()
        self._server.stop(grace=0).wait(_CLOSE_S)
        self._pool.shutdown(cancel_futures=True)
        for thread in list(self._threads):
            thread.join(_CLOSE_S)

    def _connect(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        if not self._is_authorized(context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the bearer token is missing or wrong")
        peer = context.peer()
        link = GrpcLink(
            peer,
            wrap=lambda frame: pb.ConnectResponse(frame=frame).SerializeToString(),
            hang_up=context.cancel,
        )
        self._links.add(link)
        if not context.add_callback(lambda: self._forget(link)):
            self._forget(link)
        self._start(f"read {peer}", lambda: _read_requests(link, requests))
        try:
            hello = _expect_hello(link, self._hello_timeout_s)
        except PacelineError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise
        link.peer = f"{hello.role} {hello.name} ({peer})"
        context.send_initial_metadata(())
        self._start(f"link {hello.name}", lambda: self._on_link(hello, link))
        yield from link.outgoing()

    def _is_authorized(self, context: Any) -> bool:
        given = dict(context.invocation_metadata()).get("authorization", "")
        given_bytes = given if isinstance(given, bytes) else str(given).encode()
        return hmac.compare_digest(given_bytes, f"Bearer {self._token}".encode())

    def _start(self, name: str, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads = {other for other in self._threads if other.is_alive()} | {thread}
        thread.start()

    def _forget(self, link: GrpcLink) -> None:
        self._links.discard(link)
        link.finish(PeerLost(f"{link.peer} is gone"))
        link.ended.set()


def connect_grpc(
    address: str,
    *,
    token: str,
    hello: Hello,
    timeout_s: float,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> Link:
    """Open a link to the server at `address` and introduce this side with `hello`.

    Blocks until the server has accepted, at most `timeout_s`; waits for a server that is still
    starting.

    Raises:
        ConfigError: the server rejected the token.
        ProtocolError: the server rejected the Hello, or is not a link server.
        PeerTimeout: no answer within `timeout_s`.
        PeerLost: the server left while the link was opened.
    """
    quiet_grpc()
    channel = open_internal_channel(address, _options(max_message_bytes))
    link = GrpcLink(
        address,
        wrap=lambda frame: pb.ConnectRequest(frame=frame).SerializeToString(),
        hang_up=channel.close,
    )
    call: Any = channel.stream_stream(f"/{SERVICE}/Connect", None, None)(
        link.outgoing(), metadata=(("authorization", f"Bearer {token}"),), wait_for_ready=True
    )
    link.send(hello)
    accepted = threading.Event()
    reader = threading.Thread(
        target=_read_responses, args=(link, call, accepted), name=f"read {address}", daemon=True
    )
    reader.start()
    if not accepted.wait(timeout_s):
        link.finish(PeerTimeout(f"{address} did not accept the link within {timeout_s:g} s"))
        channel.close()
    if link.inbox.end is not None:
        channel.close()
        raise link.inbox.end
    return link


def _expect_hello(link: Link, timeout_s: float) -> Hello:
    first = link.recv(timeout_s)
    if not isinstance(first, Hello):
        raise ProtocolError(f"the first message must be a Hello, within {timeout_s:g} s")
    return first


def _read_requests(link: GrpcLink, requests: Iterator[bytes]) -> None:
    try:
        for data in requests:
            link.inbox.put(from_frame(parse(pb.ConnectRequest, data).frame))
    except ProtocolError as error:
        link.finish(error)
    except Exception:  # gRPC raises a bare Exception for a broken stream
        link.finish(PeerLost(f"{link.peer} is gone"))
    else:
        link.finish(PeerLost(f"{link.peer} closed the link"))


def _read_responses(link: GrpcLink, call: Any, accepted: threading.Event) -> None:
    try:
        call.initial_metadata()
        if not call.done():
            accepted.set()
        for data in call:
            link.inbox.put(from_frame(parse(pb.ConnectResponse, data).frame))
    except ProtocolError as error:
        link.finish(error)
        call.cancel()
    except grpc.RpcError:
        link.finish(_translated(link.peer, call.code(), call.details()))
    else:
        link.finish(PeerLost(f"{link.peer} closed the link"))
    accepted.set()
    link.ended.set()


def _translated(peer: str, code: grpc.StatusCode, details: str) -> PacelineError:
    kind = STATUS_ERRORS.get(code, PeerLost)
    if kind is PeerLost:
        return PeerLost(f"{peer} is gone ({code.name.lower()}: {details})")
    return kind(f"{peer} rejected the link ({code.name.lower()}: {details})")


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        *pinging(10.0),  # detects a lost host within 15 s
        ("grpc.initial_reconnect_backoff_ms", 100),  # connects at once when a server starts
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.use_local_subchannel_pool", 1),  # closing one link must not wait for another
    ]
