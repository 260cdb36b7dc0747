from typing import Any

import grpc
import pytest

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.gateway.limits import GatewayLimits
from runtime.requests.accepted_tokens import AcceptedTokens
from runtime.service.identity import rejection
from tests.support.rig import Rig
from tests.support.serving import Serving, slow_down

PEER = "ipv4:10.0.0.7:41234"
BOTH = AcceptedTokens(users=("user",), admins=("root",))
GENERATE = "/paceline.v1.GenerationService/Generate"
DRAIN = "/paceline.v1.AdminService/Drain"
STATUS = "/paceline.v1.AdminService/GetStatus"
HEALTH = "/grpc.health.v1.Health/Check"


def bearer(text: str) -> tuple[tuple[str, str | bytes], ...]:
    return (("authorization", text),)


@pytest.mark.parametrize(
    ("tokens", "token", "allowed"),
    [
        (AcceptedTokens(), None, (GENERATE, STATUS, DRAIN, HEALTH)),
        (AcceptedTokens(users=("user",)), None, (HEALTH,)),
        (AcceptedTokens(users=("user",)), "user", (GENERATE, STATUS, DRAIN, HEALTH)),
        (AcceptedTokens(admins=("root",)), None, (GENERATE, STATUS, HEALTH)),
        (BOTH, "user", (GENERATE, STATUS, HEALTH)),
        (BOTH, "root", (GENERATE, STATUS, DRAIN, HEALTH)),
        (BOTH, "userx", (HEALTH,)),
        (BOTH, "", (HEALTH,)),
    ],
)
def test_a_token_allows_what_it_is_for(
    tokens: AcceptedTokens, token: str | None, allowed: tuple[str, ...]
) -> None:
    metadata = None if token is None else bearer(f"Bearer {token}")
    methods = (GENERATE, STATUS, DRAIN, HEALTH)
    assert tuple(m for m in methods if rejection(tokens, m, metadata) is None) == allowed


def test_a_users_token_is_denied_permission_and_an_unknown_one_is_not_authenticated() -> None:
    denied, unknown = rejection(BOTH, DRAIN, bearer("Bearer user")), rejection(BOTH, DRAIN, None)
    assert denied is not None
    assert unknown is not None
    assert denied[0] is grpc.StatusCode.PERMISSION_DENIED
    assert unknown[0] is grpc.StatusCode.UNAUTHENTICATED


def test_headers_do_not_evade_the_limit_of_a_client(rig: Rig) -> None:
    slow_down(rig, 0.02)
    serving = Serving(rig, limits=GatewayLimits(max_open_per_client=2))
    ids = pb.TokenIds(ids=(1, 2))
    with grpc.insecure_channel(serving.address) as channel:
        stub: Any = rpc.GenerationServiceStub(channel)  # the stubs lack what calls can do
        streams = []
        for number in range(2):
            request = pb.GenerateRequest(token_ids=ids, max_tokens=300)
            streams.append(stub.Generate(request, metadata=bearer(f"Bearer {number}")))
            next(streams[-1])
        third = stub.Generate(pb.GenerateRequest(token_ids=ids), metadata=bearer("Bearer 3"))
        with pytest.raises(grpc.RpcError) as rejected:
            list(third)
        assert rejected.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for stream in streams:
            stream.cancel()
    serving.close()
