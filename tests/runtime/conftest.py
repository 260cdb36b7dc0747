"""Fixtures of the runtime tests."""

from collections.abc import Iterator

import grpc
import pytest

from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.client import Client
from tests.support.rig import Rig
from tests.support.serving import Serving


@pytest.fixture
def rig() -> Iterator[Rig]:
    """An engine on one toy rank, without a drafter."""
    made = Rig()
    yield made
    made.close()
    assert not made.errors


@pytest.fixture
def serving(rig: Rig) -> Iterator[Serving]:
    """A server over the engine."""
    made = Serving(rig)
    yield made
    made.close()


@pytest.fixture
def client(serving: Serving) -> Iterator[Client]:
    """A client of the server."""
    with Client(serving.address) as made:
        yield made


@pytest.fixture
def stub(serving: Serving) -> Iterator[rpc.GenerationServiceStub]:
    """The bare gRPC calls of the server."""
    with grpc.insecure_channel(serving.address) as channel:
        yield rpc.GenerationServiceStub(channel)
