"""The status of a server and its model, as values read from the wire."""

from dataclasses import dataclass

from parallel.messages import EngineStatus
from protos.paceline.v1 import service_pb2 as pb
from runtime.errors import ProtocolError
from runtime.links.from_wire import get_status


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The model that a server serves."""

    name: str
    vocab_size: int
    """Number of tokens that the model knows."""
    max_positions: int
    """Context length: the most tokens of prompt and output together."""
    tp: int
    """Ranks that the target is split over."""
    drafter: str
    """Name of the drafter; "" without one."""
    version: str
    """Version of Paceline that the server runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStatus:
    """A process of an engine: a rank of its target or of a drafter."""

    name: str
    """The name in error messages, such as "target rank 1"."""
    pid: int
    state: str
    """starting, idle, prefill, drafting, verifying, following or ended."""
    step_age_s: float
    """Seconds since its last step began; an idle rank makes one every few seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """An engine behind a server."""

    replica: int
    """Number of the replica, from 0 on."""
    state: str
    """serving, lost (a restart is under way) or gone (it is not restarted)."""
    step_age_s: float
    """Seconds since the engine last reported."""
    open_requests: int
    """Samples that run on it."""
    restarts: int
    """Times that it was restarted."""
    engine: EngineStatus
    ranks: tuple[RankStatus, ...]
    """Its processes, each as it last reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """The state of a server and what it has done since it started."""

    ready: bool
    """Whether it accepts new requests."""
    draining: bool
    """Whether it finishes in-flight requests and rejects new ones."""
    uptime_s: float
    step_age_s: float
    """Seconds since an engine last reported."""
    open_requests: int
    """Samples that are queued or running."""
    max_open_requests: int
    finished_requests: int
    """Requests that ended with an answer."""
    rejected_requests: int
    engine: EngineStatus
    """All replicas together."""
    replicas: tuple[ReplicaStatus, ...]


def read_model(wire: pb.GetModelResponse) -> ModelInfo:
    """Return what a server answers to `GetModel`."""
    return ModelInfo(
        name=wire.name,
        vocab_size=wire.vocab_size,
        max_positions=wire.max_positions,
        tp=wire.tp,
        drafter=wire.drafter,
        version=wire.version,
    )


def read_status(wire: pb.GetStatusResponse) -> ServerStatus:
    """Return what a server answers to `GetStatus`.

    Raises:
        ProtocolError: a duration is negative or not finite.
    """
    try:
        return ServerStatus(
            ready=wire.ready,
            draining=wire.draining,
            uptime_s=wire.uptime_s,
            step_age_s=wire.step_age_s,
            open_requests=wire.open_requests,
            max_open_requests=wire.max_open_requests,
            finished_requests=wire.finished_requests,
            rejected_requests=wire.rejected_requests,
            engine=get_status(wire.engine),
            replicas=tuple(_read_replica(one) for one in wire.replicas),
        )
    except ValueError as error:
        raise ProtocolError(f"the status of the server is malformed: {error}") from error


def _read_replica(wire: pb.ReplicaStatus) -> ReplicaStatus:
    return ReplicaStatus(
        replica=wire.replica,
        state=wire.state,
        step_age_s=wire.step_age_s,
        open_requests=wire.open_requests,
        restarts=wire.restarts,
        engine=get_status(wire.engine),
        ranks=tuple(
            RankStatus(name=one.name, pid=one.pid, state=one.state, step_age_s=one.step_age_s)
            for one in wire.ranks
        ),
    )
