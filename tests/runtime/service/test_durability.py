"""A server is killed and another one starts with its journal: clients get exactly the rest."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.gateway.journal_store import JournalStore
from runtime.gateway.limits import GatewayLimits
from tests.support.rig import Rig, expected_tokens, make_submit
from tests.support.serving import Serving, slow_down

PROMPT = (1, 2, 3)
LONG = 150
Serve = Callable[..., Serving]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers, each over an engine of its own."""
    started: list[tuple[Rig, Serving]] = []

    def start(directory: Path, **settings: Any) -> Serving:
        rig = Rig()
        rig.attach_model()
        slow_down(rig, 0.005)
        store = JournalStore.open(directory, "the toy")
        serving = Serving(rig, store=store, **settings)
        started.append((rig, serving))
        return serving

    yield start
    for rig, serving in started:
        serving.close()
        rig.close()


def ask(name: str, **fields: Any) -> pb.GenerateRequest:
    ids = pb.TokenIds(ids=PROMPT)
    return pb.GenerateRequest(token_ids=ids, request_id=name, seed=0, max_tokens=LONG, **fields)


def read(address: str, request: pb.GenerateRequest, num: int = LONG) -> list[int]:
    """Return a request's tokens, the first `num` of them at least, then leave."""
    tokens: list[int] = []
    with grpc.insecure_channel(address) as channel:
        stub: Any = rpc.GenerationServiceStub(channel)
        stream = stub.Generate(request)
        for event in stream:
            tokens += event.tokens.token_ids
            if event.WhichOneof("event") == "finish":
                return tokens
            if len(tokens) >= num:
                stream.cancel()
                break
    return tokens


def killed(directory: Path, at: Path) -> Path:
    """Return what a kill at this moment would leave on disk."""
    return Path(shutil.copytree(directory, at))


def test_a_client_gets_exactly_the_rest_from_the_next_server(tmp_path: Path, serve: Serve) -> None:
    expected = expected_tokens(make_submit(prompt=PROMPT, max_tokens=LONG))
    first = serve(tmp_path / "one")
    got = read(first.address, ask("mine"), 40)
    second = serve(killed(tmp_path / "one", tmp_path / "two"))
    known = second.gateway.find("ipv4:127.0.0.1", "mine")
    assert known is not None
    assert len(known.samples[0].token_ids) >= len(got)  # what a client has is in the journal
    rest = read(second.address, ask("mine", resume_from=len(got)))
    assert got + rest == expected
    third = serve(killed(tmp_path / "two", tmp_path / "three"))
    assert read(third.address, ask("mine")) == expected
    assert third.gateway.status.tokens == 0  # it was finished: nothing is computed again


def test_samples_and_log_probabilities_survive(tmp_path: Path, serve: Serve) -> None:
    fields = {"n": 2, "temperature": 0.9, "logprobs": 1}
    first = serve(tmp_path / "one")
    read(first.address, ask("mine", **fields), 60)
    second = serve(killed(tmp_path / "one", tmp_path / "two"))
    request = second.gateway.find("ipv4:127.0.0.1", "mine")
    assert request is not None
    read(second.address, ask("mine", **fields), 2 * LONG)
    whole = first.gateway.find("ipv4:127.0.0.1", "mine")
    assert whole is not None
    read(first.address, ask("mine", **fields), 2 * LONG)
    for theirs, mine in zip(request.samples, whole.samples, strict=True):
        assert theirs.token_ids == mine.token_ids
        assert [one.top_ids for one in theirs.logprobs] == [one.top_ids for one in mine.logprobs]
        assert len(theirs.logprobs) == LONG


def test_a_torn_tail_costs_work_and_no_token(tmp_path: Path, serve: Serve) -> None:
    first = serve(tmp_path / "one")
    got = read(first.address, ask("mine"), 60)
    left = killed(tmp_path / "one", tmp_path / "two")
    data = (left / "journal").read_bytes()
    (left / "journal").write_bytes(data[: len(data) * 2 // 3])
    second = serve(left)
    rest = read(second.address, ask("mine", resume_from=len(got)))
    assert got + rest == expected_tokens(make_submit(prompt=PROMPT, max_tokens=LONG))


def test_a_request_whose_client_does_not_return_is_dropped(tmp_path: Path, serve: Serve) -> None:
    first = serve(tmp_path / "one")
    read(first.address, ask("mine"), 20)
    limits = GatewayLimits(grace_s=0.5)
    second = serve(killed(tmp_path / "one", tmp_path / "two"), limits=limits)
    deadline = time.monotonic() + 20
    while second.gateway.find("ipv4:127.0.0.1", "mine") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    last = JournalStore.open(killed(tmp_path / "two", tmp_path / "three"), "the toy")
    assert last.restored == []
    last.close()
