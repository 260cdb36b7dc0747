"""A worker's connection to the sequencer: over gRPC, and with injected faults."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import grpc

from parallel.training.shared_seed.round_messages import MachineReport, RoundAnswer
from protos.paceline.v1 import seedlog_pb2 as pb
from protos.paceline.v1 import seedlog_pb2_grpc as rpc
from runtime.channels.channel import CLIENT_OPTIONS, open_channel, open_internal_channel
from runtime.channels.credentials import Credentials
from runtime.channels.handshakes import explained, lasting_failure
from runtime.errors import ConfigError, PeerLost, PeerTimeout, ProtocolError
from runtime.training.job.faults_config import FaultsConfig
from runtime.training.shared_seed.seed_log import Header
from runtime.training.shared_seed.sequencer import Rejected
from runtime.training.shared_seed.wire import answer_from_wire, header_from_wire, report_to_wire

LEAN_OPTIONS = (("grpc.http2.bdp_probe", 0),)
"""Messages are a few bytes; pings that measure bandwidth would be larger."""
_CALL_S = 20.0
_SNAPSHOT_S = 600.0

# The errors of gRPC's status codes; all others mean that the peer is lost.
STATUS_ERRORS: dict[grpc.StatusCode, type[Exception]] = {
    grpc.StatusCode.UNAUTHENTICATED: ConfigError,
    grpc.StatusCode.INVALID_ARGUMENT: ProtocolError,
    grpc.StatusCode.UNIMPLEMENTED: ProtocolError,
    grpc.StatusCode.PERMISSION_DENIED: Rejected,
    grpc.StatusCode.DEADLINE_EXCEEDED: PeerTimeout,
}


@dataclass(frozen=True, slots=True)
class Joined:
    """The sequencer's answer to a machine that joins."""

    machine: int
    secret: bytes
    header: Header
    terms_json: str


class Port(Protocol):
    """A worker's connection to the sequencer.

    All methods raise PeerLost or PeerTimeout if a retry may help, Rejected if the machine has to
    join again, and ConfigError if nothing helps.
    """

    def join(self, name: str, *, observes: bool = False) -> Joined:
        """Join as a machine."""
        ...

    def exchange(self, report: MachineReport, wait_s: float) -> RoundAnswer:
        """Send a report, and wait at most so long for the end of the round."""
        ...

    def snapshot(self) -> bytes | None:
        """Return the newest snapshot, or None if there is none."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class GrpcPort:
    """A connection over gRPC."""

    def __init__(
        self, address: str, credentials: Credentials | None = None, *, internal: bool = False
    ) -> None:
        """Prepare a connection; the first call opens it.

        Args:
            address: HOST:PORT.
            credentials: credentials of a machine outside the cluster.
            internal: the sequencer is a process of the same job: the token is sent in plaintext,
                without a proxy.

        Raises:
            ConfigError: as `open_channel`.
        """
        self._address = address
        self._credentials = credentials or Credentials()
        options = (*CLIENT_OPTIONS, *LEAN_OPTIONS, ("grpc.max_receive_message_length", -1))
        self._channel = (
            open_internal_channel(address, options)
            if internal
            else open_channel(address, self._credentials, options)
        )
        self._stub = rpc.SeedLogServiceStub(self._channel)
        self._machine, self._secret = 0, b""

    def join(self, name: str, *, observes: bool = False) -> Joined:
        """Join as a machine; later calls are made for it."""
        asked = pb.JoinRequest(name=name, observes=observes)
        metadata = self._credentials.metadata()
        try:
            reply = self._stub.Join(asked, metadata=metadata, timeout=_CALL_S)
        except grpc.RpcError as error:
            raise self._translated(error) from error
        self._machine, self._secret = reply.machine, reply.secret
        return Joined(reply.machine, reply.secret, header_from_wire(reply.header), reply.terms_json)

    def exchange(self, report: MachineReport, wait_s: float) -> RoundAnswer:
        """Send a report, and wait at most so long for the end of the round."""
        asked = report_to_wire(report, wait_s, self._machine, self._secret)
        try:
            reply = self._stub.Exchange(asked, timeout=wait_s + _CALL_S)
        except grpc.RpcError as error:
            raise self._translated(error) from error
        return answer_from_wire(reply, report.round)

    def snapshot(self) -> bytes | None:
        """Return the newest snapshot, or None if there is none."""
        try:
            asked = pb.GetSnapshotRequest(machine=self._machine, secret=self._secret)
            pieces = self._stub.GetSnapshot(asked, timeout=_SNAPSHOT_S)
            return b"".join(piece.piece for piece in pieces) or None
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _translated(self, error: grpc.RpcError) -> Exception:
        kind = STATUS_ERRORS.get(error.code(), PeerLost)
        if lasting_failure(error.details()) is not None:
            kind = ConfigError
        return kind(f"{self._address}: {error.code().name}: {explained(error.details())}")


class FaultyPort:
    """A port that loses, repeats and delays messages, drawn by the machine's number."""

    def __init__(
        self, port: Port, faults: FaultsConfig, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._port = port
        self._faults = faults
        self._sleep = sleep
        self._draw = random.Random(faults.seed)
        self.num_lost = self.num_repeated = 0

    def join(self, name: str, *, observes: bool = False) -> Joined:
        """Join as a machine; faults are drawn by its number from now on."""
        joined = self._port.join(name, observes=observes)
        self._draw = random.Random(f"{self._faults.seed}/{joined.machine}")
        return joined

    def exchange(self, report: MachineReport, wait_s: float) -> RoundAnswer:
        """Send a report; it or the answer may be lost, or arrive twice."""
        self._sleep(self._faults.delay_s / 2)
        self._lose("the message")
        if self._draw.random() < self._faults.repeat:
            self.num_repeated += 1
            self._port.exchange(report, 0.0)
        answer = self._port.exchange(report, wait_s)
        self._sleep(self._faults.delay_s / 2)
        self._lose("the answer")
        return answer

    def snapshot(self) -> bytes | None:
        """Return the newest snapshot after a delay."""
        self._sleep(self._faults.delay_s)
        return self._port.snapshot()

    def close(self) -> None:
        """Close the connection."""
        self._port.close()

    def _lose(self, what: str) -> None:
        if self._draw.random() < self._faults.lose:
            self.num_lost += 1
            raise PeerTimeout(f"{what} was lost, as `faults.lose` requests")
