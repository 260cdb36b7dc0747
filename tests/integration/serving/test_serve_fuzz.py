"""Anything may come over the wire: the server answers with a status and serves on."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos.paceline.v1 import service_pb2 as pb
from runtime.client import Client
from tests.support.integration.serving_process import ServingProcess
from tests.support.tiny_checkpoint import VOCAB

METHODS = ("Generate", "Cancel", "GetModel", "Tokenize", "Detokenize", "GetStatus")
SERVICES = {"Generate": "Generation", "Cancel": "Generation", "GetStatus": "Admin"}
ENDED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
EVERY = settings(
    max_examples=800, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

requests = st.builds(
    pb.GenerateRequest,
    text=st.none() | st.text(max_size=30),
    max_tokens=st.none() | st.sampled_from([0, 1, 2, 2**31, 2**32 - 1]),
    temperature=st.none() | st.floats(),
    top_k=st.none() | st.integers(0, 2**32 - 1),
    top_p=st.none() | st.floats(),
    min_p=st.none() | st.floats(),
    repetition_penalty=st.none() | st.floats(),
    seed=st.none() | st.integers(0, 2**64 - 1),
    stop=st.lists(st.text(max_size=4), max_size=20),
    mode=st.integers(0, 9),
    request_id=st.text(max_size=200),
    resume_from=st.sampled_from([0, 1, 2**32 - 1]),
    n=st.none() | st.sampled_from([0, 1, 2, 16, 17, 2**32 - 1]),
    resume_from_each=st.lists(st.integers(0, 5), max_size=4),
    logprobs=st.none() | st.sampled_from([0, 1, 20, 21, 2**32 - 1]),
    priority=st.integers(-(2**31), 2**31 - 1),
)
token_ids = st.lists(st.integers(0, 2**32 - 1) | st.integers(0, VOCAB), max_size=20)


@pytest.fixture(scope="module")
def channel(tiny_server: ServingProcess) -> Iterator[grpc.Channel]:
    """A channel to a server that gives the same answer before and after."""
    with Client(tiny_server.address) as client, grpc.insecure_channel(tiny_server.address) as made:
        alone = answer_of(client)
        yield made
        assert answer_of(client) == alone


def answer_of(client: Client) -> list[int]:
    chunks = client.generate((1, 2, 3), max_tokens=24)
    return [token for chunk in chunks for token in chunk.token_ids]


def status_of(channel: grpc.Channel, method: str, payload: bytes) -> grpc.StatusCode:
    """Return how a call ends; one that is served is left after its first event."""
    path = f"/paceline.v1.{SERVICES.get(method, 'Model')}Service/{method}"
    make = channel.unary_stream if method == "Generate" else channel.unary_unary
    call: Any = make(path, request_serializer=None, response_deserializer=None)
    try:
        answer = call(payload, timeout=20)
        if method == "Generate":
            next(answer)
            answer.cancel()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


@EVERY
@given(method=st.sampled_from(METHODS), payload=st.binary(max_size=200))
def test_random_bytes_end_in_a_status(channel: grpc.Channel, method: str, payload: bytes) -> None:
    assert status_of(channel, method, payload) in {*ENDED, grpc.StatusCode.OK}


@EVERY
@given(request=requests, ids=st.none() | token_ids, unknown=st.binary(max_size=6))
def test_random_requests_are_served_or_rejected(
    channel: grpc.Channel, request: pb.GenerateRequest, ids: list[int] | None, unknown: bytes
) -> None:
    """With fields of a later version behind, which a server must skip."""
    if ids is not None:
        request.token_ids.CopyFrom(pb.TokenIds(ids=ids))
    later = b"\xfa\x3e" + bytes([len(unknown)]) + unknown  # field 1007
    code = status_of(channel, "Generate", request.SerializeToString() + later)
    assert code in {*ENDED, grpc.StatusCode.OK}


def test_a_message_beyond_the_limit_is_rejected(channel: grpc.Channel) -> None:
    large = pb.GenerateRequest(text="w1 " * (6 * 1024 * 1024))
    code = status_of(channel, "Generate", large.SerializeToString())
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
