"""How a worker reaches the sequencer: over gRPC, in one process, and with faults put in."""

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
from runtime.channels.handshakes import explained, refusal
from runtime.errors import ConfigError, PeerLost, PeerTimeout, ProtocolError
from runtime.training.job.faults_config import FaultsConfig
from runtime.training.shared_seed.seed_log import Header
from runtime.training.shared_seed.sequencer import Refused
from runtime.training.shared_seed.wire import answer_from_wire, header_from_wire, report_to_wire

LEAN_OPTIONS = (("grpc.http2.bdp_probe", 0),)
"""Messages are a few bytes: pings that measure bandwidth would be more than they are."""
_CALL_S = 20.0
_SNAPSHOT_S = 600.0

# gRPC's status codes, and what they are here; all others mean that the peer is lost.
STATUS_ERRORS: dict[grpc.StatusCode, type[Exception]] = {
    grpc.StatusCode.UNAUTHENTICATED: ConfigError,
    grpc.StatusCode.INVALID_ARGUMENT: ProtocolError,
    grpc.StatusCode.UNIMPLEMENTED: ProtocolError,
    grpc.StatusCode.PERMISSION_DENIED: Refused,
    grpc.StatusCode.DEADLINE_EXCEEDED: PeerTimeout,
}


@dataclass(frozen=True, slots=True)
class Joined:
    """What a machine receives when it joins."""

    machine: int
    secret: bytes
    header: Header
    terms_json: str


class Port(Protocol):
    """A worker's way to the sequencer.

    All methods raise PeerLost or PeerTimeout where it is worth trying again, Refused where the
    machine has to join again, and ConfigError where nothing helps.
    """

    def join(self, name: str, *, observes: bool = False) -> Joined:
        """Become a machine."""
        ...

    def exchange(self, report: MachineReport, wait_s: float) -> RoundAnswer:
        """Say something, and wait for at most so long for the round's end."""
        ...

    def snapshot(self) -> bytes | None:
        """Return the newest snapshot, if there is one."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class GrpcPort:
    """Over gRPC."""

    def __init__(
        self, address: str, credentials: Credentials | None = None, *, internal: bool = False
    ) -> None:
        """Prepare a connection; it is made at the first call.

        Args:
            address: HOST:PORT.
            credentials: those of a machine that joins from outside.
            internal: the sequencer is a process of the same job: its token travels in plaintext
                and no proxy is asked.

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
        """Become a machine; later calls speak for it."""
        asked = pb.JoinRequest(name=name, observes=observes)
        metadata = self._credentials.metadata()
        try:
            told = self._stub.Join(asked, metadata=metadata, timeout=_CALL_S)
        except grpc.RpcError as error:
            raise self._translated(error) from error
        self._machine, self._secret = told.machine, told.secret
        return Joined(told.machine, told.secret, header_from_wire(told.header), told.terms_json)

    def exchange(self, report: MachineReport, wait_s: float) -> RoundAnswer:
        """Say something, and wait for at most so long for the round's end."""
        asked = report_to_wire(report, wait_s, self._machine, self._secret)
        try:
            told = self._stub.Exchange(asked, timeout=wait_s + _CALL_S)
        except grpc.RpcError as error:
            raise self._translated(error) from error
        return answer_from_wire(told, report.round)

    def snapshot(self) -> bytes | None:
        """Return the newest snapshot, if there is one."""
        try:
            asked = pb.GetSnapshotRequest(machine=self._machine, secret=self._secret)
            pieces = self._stub.GetSnapshot(asked, timeout=_SNAPSHOT_S)
            return b"".join(piece.piece for piece in pieces) or None
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def _translated(self, error: grpc.RpcError) -> Exception:
        kind = STATUS_ERRORS.get(error.code(), PeerLost)
        if refusal(error.details()) is not None:
            kind = ConfigError
        return kind(f"{self._address}: {error.code().name}: {explained(error.details())}")


class FaultyPort:
    """A port that loses, repeats and delays what goes through it, drawn by the machine's number."""

    def __init__(
        self, port: Port, faults: FaultsConfig, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._port = port
        self._faults = faults
        self._sleep = sleep
        self._draw = random.Random(faults.seed)
        self.num_lost = self.num_repeated = 0

    def join(self, name: str, *, observes: bool = False) -> Joined:
        """Become a machine; what is drawn from here on is its own."""
        joined = self._port.join(name, observes=observes)
        self._draw = random.Random(f"{self._faults.seed}/{joined.machine}")
        return joined

    def exchange(self, report: MachineReport, wait_s: float) -> RoundAnswer:
        """Say something; it, or the answer, may be lost, or come twice."""
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
        """Return the newest snapshot, late."""
        self._sleep(self._faults.delay_s)
        return self._port.snapshot()

    def close(self) -> None:
        """Hang up."""
        self._port.close()

    def _lose(self, what: str) -> None:
        if self._draw.random() < self._faults.lose:
            self.num_lost += 1
            raise PeerTimeout(f"{what} was lost, as [faults] lose asks for")
