"""The status of a server arrives as values: what is on the wire, and nothing malformed."""

import dataclasses
import math

import pytest

from protos.paceline.v1 import link_pb2
from protos.paceline.v1 import service_pb2 as pb
from runtime.client import EngineStatus, ModelInfo, RankStatus, ReplicaStatus, ServerStatus
from runtime.client.server_status import read_model, read_status
from runtime.errors import ProtocolError

WIRE = pb.GetStatusResponse(
    ready=True,
    uptime_s=9.5,
    step_age_s=0.5,
    open_requests=3,
    max_open_requests=256,
    finished_requests=7,
    rejected_requests=1,
    engine=link_pb2.EngineStatus(running=2, drafter="ngram", draft_s=1.5),
    replicas=[
        pb.ReplicaStatus(
            replica=0,
            state="serving",
            open_requests=3,
            restarts=1,
            engine=link_pb2.EngineStatus(running=2),
            ranks=[pb.RankStatus(name="target rank 0", pid=42, state="idle", step_age_s=0.25)],
        )
    ],
)


def test_a_status_has_every_field_of_the_wire() -> None:
    engine = EngineStatus(running=2)
    rank = RankStatus(name="target rank 0", pid=42, state="idle", step_age_s=0.25)
    replica = ReplicaStatus(
        replica=0,
        state="serving",
        step_age_s=0.0,
        open_requests=3,
        restarts=1,
        engine=engine,
        ranks=(rank,),
    )
    assert read_status(WIRE) == ServerStatus(
        ready=True,
        draining=False,
        uptime_s=9.5,
        step_age_s=0.5,
        open_requests=3,
        max_open_requests=256,
        finished_requests=7,
        rejected_requests=1,
        engine=EngineStatus(running=2, drafter="ngram", draft_s=1.5),
        replicas=(replica,),
    )


@pytest.mark.parametrize(
    ("message", "value"),
    [
        (pb.GetStatusResponse, ServerStatus),
        (pb.ReplicaStatus, ReplicaStatus),
        (pb.RankStatus, RankStatus),
        (pb.GetModelResponse, ModelInfo),
        (link_pb2.EngineStatus, EngineStatus),
    ],
)
def test_values_have_the_fields_of_their_messages(message: type, value: type) -> None:
    wire = {field.name for field in message.DESCRIPTOR.fields}  # type: ignore[attr-defined]  # of a message
    assert {field.name for field in dataclasses.fields(value)} == wire


def test_a_model_has_every_field_of_the_wire() -> None:
    wire = pb.GetModelResponse(
        name="toy", vocab_size=64, max_positions=128, tp=2, drafter="ngram", version="1.0"
    )
    assert read_model(wire) == ModelInfo(
        name="toy", vocab_size=64, max_positions=128, tp=2, drafter="ngram", version="1.0"
    )


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_a_malformed_duration_is_an_error_of_the_protocol(seconds: float) -> None:
    wire = pb.GetStatusResponse(engine=link_pb2.EngineStatus(target_s=seconds))
    with pytest.raises(ProtocolError, match="status of the server is malformed: target_s"):
        read_status(wire)
