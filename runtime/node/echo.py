"""Both ends of a link measurement: the process that answers pings, and the functions that send
them."""

import threading

from parallel.messages import Hello
from runtime.links.grpc_link import GrpcLinkServer, connect_grpc
from runtime.links.link import Link
from runtime.links.link_timing import RoundTrips, answer_pings, measure_round_trips
from runtime.links.memory_link import memory_link_pair
from runtime.links.torch_link import TorchLinkSpec, join_torch_link, offer_torch_link

_TIMEOUT_S = 30.0


class EchoHost:
    """A process's link ends that answer pings: a gRPC server and one torch.distributed link."""

    def __init__(self) -> None:
        self._server: GrpcLinkServer | None = None
        self._waiting: threading.Thread | None = None

    def listen(self, token: str) -> str:
        """Start the server and return its address."""
        self._server = GrpcLinkServer(
            "127.0.0.1", token=token, on_link=lambda _, link: _answer_and_close(link)
        )
        return self._server.address

    def offer(self) -> TorchLinkSpec:
        """Offer a torch.distributed link, and wait for its other end in the background."""
        offer = offer_torch_link("127.0.0.1", backend="gloo", timeout_s=_TIMEOUT_S)

        def answer() -> None:
            _answer_and_close(join_torch_link(offer.spec, 0, name="echo"))

        self._waiting = threading.Thread(target=answer, daemon=True)
        self._waiting.start()
        return offer.spec

    def close(self) -> None:
        """Stop answering; blocks for a few seconds at most."""
        if self._waiting is not None:
            self._waiting.join(_TIMEOUT_S)
        if self._server is not None:
            self._server.close()


def measure_memory(count: int, gap_s: float) -> RoundTrips:
    """Measure a link between two threads of this process."""
    ours, theirs = memory_link_pair("this thread", "another")
    threading.Thread(target=answer_pings, args=(theirs,), daemon=True).start()
    return _measure(ours, count, gap_s)


def measure_grpc(address: str, token: str, count: int, gap_s: float) -> RoundTrips:
    """Measure a gRPC link to an EchoHost."""
    hello = Hello(role="driver", name="bench")
    return _measure(
        connect_grpc(address, token=token, hello=hello, timeout_s=_TIMEOUT_S), count, gap_s
    )


def measure_torch(spec: TorchLinkSpec, count: int, gap_s: float) -> RoundTrips:
    """Measure a torch.distributed link to an EchoHost."""
    return _measure(join_torch_link(spec, 1, name="bench"), count, gap_s)


def _measure(link: Link, count: int, gap_s: float) -> RoundTrips:
    try:
        return measure_round_trips(link, count, gap_s=gap_s)
    finally:
        link.close()


def _answer_and_close(link: Link) -> None:
    answer_pings(link)
    link.close()
