"""The gRPC service over a toy engine: exact streams, resumed ones, faults and rejections."""

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from parallel.messages import Submit
from protos.paceline.v1 import link_pb2
from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.client import Client, Credentials, ServiceError
from runtime.gateway.limits import GatewayLimits
from tests.support.rig import Rig, expected_tokens, make_submit
from tests.support.serving import CutWire, Serving, slow_down, toy_tokenizer
from tests.support.waiting import wait_until

PROMPT = (1, 2, 3)
Stub = Any  # the stubs of streams know less than the streams
GENERATION = "paceline.v1.GenerationService"


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    made.attach_model()
    yield made
    made.close()


def ask(name: str = "", **fields: Any) -> pb.GenerateRequest:
    ids = pb.TokenIds(ids=fields.pop("ids", PROMPT))
    return pb.GenerateRequest(token_ids=ids, request_id=name, seed=0, **fields)


def chat(*turns: tuple[str, str]) -> pb.GenerateRequest:
    messages = [pb.ChatMessage(role=role, content=content) for role, content in turns]
    return pb.GenerateRequest(chat=pb.Chat(messages=messages))


def newer(request: pb.GenerateRequest) -> pb.GenerateRequest:
    """Return a request with a field of a later version: number 1000, the integer 1."""
    return pb.GenerateRequest.FromString(request.SerializeToString() + b"\xc0\x3e\x01")


def tokens_of(events: list[pb.GenerateResponse]) -> list[int]:
    return [token for event in events for token in event.tokens.token_ids]


def alone(**fields: Any) -> list[int]:
    submit: Submit = make_submit(prompt=PROMPT, **fields)
    return expected_tokens(submit)


@pytest.mark.parametrize("mode", ["autoregressive", "speculative", "pearl"])
def test_a_stream_has_the_targets_tokens_and_one_end(stub: Stub, mode: str) -> None:
    number = link_pb2.DecodeMode.Value(f"DECODE_MODE_{mode.upper()}")
    events = list(stub.Generate(ask(max_tokens=24, mode=number)))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["accepted", *["tokens"] * (len(events) - 2), "finish"]
    assert tokens_of(events) == alone()
    finish = events[-1].finish
    assert finish.reason == link_pb2.FINISH_REASON_LENGTH
    assert (finish.prompt_tokens, finish.completion_tokens) == (3, 24)
    assert (finish.stats.drafted > 0) == (mode != "autoregressive")
    assert (finish.stats.accepted > 0) == (mode != "autoregressive")


def test_the_client_gives_text_and_tokens(client: Client) -> None:
    chunks = list(client.generate("w1 w2 w3", max_tokens=24))
    tokens = [token for chunk in chunks for token in chunk.token_ids]
    assert tokens == alone()
    assert "".join(chunk.text for chunk in chunks) == toy_tokenizer().decode(tokens)
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["length"]
    assert client.model().name == "toy"
    assert client.tokenize("w4 w5") == (4, 5)
    assert client.detokenize([4, 5]) == toy_tokenizer().decode([4, 5])


def test_a_seed_is_drawn_where_none_is_given_and_reported(stub: Stub) -> None:
    request = pb.GenerateRequest(text="w1 w2 w3", temperature=1.0, max_tokens=16)
    first = list(stub.Generate(request))
    second = list(stub.Generate(request))
    assert tokens_of(first) != tokens_of(second)
    request.seed = first[0].accepted.seed
    assert tokens_of(list(stub.Generate(request))) == tokens_of(first)


def test_a_broken_stream_is_resumed_where_it_stopped(
    rig: Rig, serving: Serving, stub: Stub
) -> None:
    slow_down(rig, 0.01)
    stream = stub.Generate(ask("mine", max_tokens=40))
    got: list[int] = []
    for event in stream:
        got += event.tokens.token_ids
        if len(got) >= 5:
            break
    stream.cancel()
    time.sleep(0.1)
    assert serving.gateway.num_open == 1
    rest = list(stub.Generate(ask("mine", max_tokens=40, resume_from=len(got))))
    assert got + tokens_of(rest) == alone(max_tokens=40)
    assert rest[-1].WhichOneof("event") == "finish"
    again = list(stub.Generate(ask("mine", max_tokens=40)))  # idempotent: nothing is done again
    assert tokens_of(again) == alone(max_tokens=40)
    assert again[-1].finish.stats == rest[-1].finish.stats


def test_a_name_belongs_to_one_request(stub: Stub) -> None:
    list(stub.Generate(ask("mine")))
    with pytest.raises(grpc.RpcError, match="belongs to another request"):
        list(stub.Generate(ask("mine", max_tokens=5)))


@pytest.mark.parametrize("seed", range(10))
def test_a_wire_that_is_cut_again_and_again_loses_no_token(
    rig: Rig, serving: Serving, seed: int
) -> None:
    slow_down(rig, 0.002)
    wire = CutWire(serving.address, seed=seed, most=900)
    with Client(wire.address) as client:
        for number in range(4):
            chunks = list(client.generate([*PROMPT, number], max_tokens=60))
            tokens = [token for chunk in chunks for token in chunk.token_ids]
            assert tokens == expected_tokens(make_submit(prompt=(*PROMPT, number), max_tokens=60))
            assert "".join(c.text for c in chunks) == toy_tokenizer().decode(tokens)
            assert sum(chunk.finish_reason is not None for chunk in chunks) == 1
    wire.close()
    assert wire.num_cuts > 0


def test_a_client_that_leaves_frees_its_request(
    rig: Rig, serving: Serving, client: Client, stub: Stub
) -> None:
    slow_down(rig, 0.01)
    stream = stub.Generate(ask(max_tokens=300))
    next(stream)
    wait_until(lambda: serving.gateway.num_open == 1)
    stream.cancel()
    wait_until(lambda: serving.gateway.num_open == 0)
    wait_until(lambda: not rig.engine._scheduler.running)
    chunks = client.generate("w1 w2", max_tokens=300)
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]  # a generator
    wait_until(lambda: serving.gateway.num_open == 0)
    wait_until(lambda: not rig.engine._scheduler.running)


def test_cancelling_ends_the_stream_and_may_be_repeated(
    rig: Rig, serving: Serving, stub: Stub
) -> None:
    slow_down(rig, 0.01)
    stream = stub.Generate(ask("mine", max_tokens=300))
    next(stream)
    wait_until(lambda: serving.gateway.num_open == 1)
    assert stub.Cancel(pb.CancelRequest(request_id="mine")).was_running
    events = list(stream)
    assert events[-1].finish.reason == link_pb2.FINISH_REASON_CANCELLED
    assert not stub.Cancel(pb.CancelRequest(request_id="mine")).was_running
    with pytest.raises(grpc.RpcError, match="no request is named 'other'"):
        stub.Cancel(pb.CancelRequest(request_id="other"))


def test_a_deadline_ends_the_request(
    rig: Rig, serving: Serving, client: Client, stub: Stub
) -> None:
    slow_down(rig, 0.02)
    with pytest.raises(ServiceError) as ended:
        list(client.generate("w1", max_tokens=300, timeout_s=0.4))
    assert ended.value.code == "DEADLINE_EXCEEDED"
    with pytest.raises(grpc.RpcError):
        list(stub.Generate(ask(max_tokens=300), timeout=0.3))
    wait_until(lambda: serving.gateway.num_open == 0)
    wait_until(lambda: not rig.engine._scheduler.running)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (pb.GenerateRequest(), "there is no prompt"),
        (ask(ids=()), "the prompt has no tokens"),
        (ask(ids=(1, 99)), "token_ids[1] is 99: token ids are between 0 and 47"),
        (ask(ids=(1,) * 400), "the prompt has 400 tokens, the context of toy holds 400"),
        (ask(max_tokens=0), "`max_tokens` is 0"),
        (ask(temperature=-1), "`temperature` is -1.0"),
        (ask(temperature=1, top_p=0.0), "`top_p` is 0.0"),
        (ask(resume_from=3), "`resume_from` needs `request_id`"),
        (ask("mine", resume_from=99), "`resume_from` is 99, beyond `max_tokens` 24"),
        (ask("m" * 200), "`request_id` has 200 characters: 128 at most"),
        (ask(stop=["a"] * 17), "`stop` has 17 strings: 16 at most"),
        (ask(stop=[""]), "`stop`[0] is empty"),
        (ask(stop=["a" * 1001]), "a stop string has 1001 characters: it needs 1 to 1000"),
        (ask(n=0, temperature=1), "`n` is 0: it must be between 1 and 16"),
        (ask(n=17, temperature=1), "`n` is 17: it must be between 1 and 16"),
        (ask(n=2), "`n` is 2 at temperature 0, where all samples are equal"),
        (
            ask("mine", n=2, temperature=1, resume_from=1),
            "with `n` above 1, set",
        ),
        (
            ask("mine", n=2, temperature=1, resume_from_each=[1]),
            "`resume_from_each` has 1 numbers for 2 samples",
        ),
        (ask(logprobs=21), "`logprobs` is 21: it must be between 0 and 20"),
        (ask(priority=101), "`priority` is 101: it must be between -100 and 100"),
        (chat(("user", "x")), "the toy has no chat template"),
        (chat(), "chat.messages is empty"),
        (chat(("user", "")), "chat.messages has no text"),
        (chat(("user", "x"), ("bot", "y")), "chat.messages[1].role is 'bot': write one of"),
        (pb.GenerateRequest(text=""), "the prompt has no tokens"),
        (ask("two\nlines"), "`request_id` is 'two\\nlines'"),
        (ask(temperature=float("nan")), "`temperature` is nan (float): it must be a finite number"),
        (ask(temperature=1, top_p=float("inf")), "`top_p` is inf (float): it must be a finite"),
        (ask(top_k=2**32 - 1), "`top_k` is 4294967295: it must be between 0 and 2147483647"),
        (ask(mode=99), "`mode` is 99: this server does not know it"),
        (newer(ask()), "GenerateRequest has a field 1000 that this server does not know"),
    ],
)
def test_a_bad_request_is_rejected_and_disturbs_no_other(
    rig: Rig, stub: Stub, request_: pb.GenerateRequest, words: str
) -> None:
    slow_down(rig, 0.005)
    other = stub.Generate(ask(max_tokens=24))
    next(other)
    with pytest.raises(grpc.RpcError) as rejected:
        list(stub.Generate(request_))
    assert rejected.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in str(rejected.value.details())
    assert tokens_of(list(other)) == alone()


def test_only_so_many_requests_are_taken(rig: Rig) -> None:
    slow_down(rig, 0.02)
    serving = Serving(rig, limits=GatewayLimits(max_open=2))
    try:
        with grpc.insecure_channel(serving.address) as channel:
            stub: Stub = rpc.GenerationServiceStub(channel)
            running = [stub.Generate(ask(ids=(1, n), max_tokens=300)) for n in range(2)]
            for stream in running:
                next(stream)
            with pytest.raises(grpc.RpcError) as rejected:
                list(stub.Generate(ask()))
            assert rejected.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            trailing: Any = rejected.value.trailing_metadata()
            assert dict(trailing)["retry-after"] == "1"
            for stream in running:
                stream.cancel()
    finally:
        serving.close()


def test_only_known_tokens_are_let_in(rig: Rig) -> None:
    serving = Serving(rig, tokens=("secret", "other"))
    try:
        for token in (None, "wrong", ""):
            with Client(serving.address, credentials=Credentials(token=token)) as client:
                with pytest.raises(ServiceError) as rejected:
                    list(client.generate("w1"))
                assert rejected.value.code == "UNAUTHENTICATED"
                with pytest.raises(ServiceError, match="UNAUTHENTICATED"):
                    client.model()
        with Client(serving.address, credentials=Credentials(token="other")) as client:
            assert list(client.generate("w1 w2 w3"))[-1].finish_reason == "length"
        with grpc.insecure_channel(serving.address) as channel:  # probes need none
            assert health(channel, "") == "SERVING"
    finally:
        serving.close()


def health(channel: grpc.Channel, service: str) -> str:
    request = health_pb2.HealthCheckRequest(service=service)
    answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def test_draining_finishes_what_runs_and_rejects_what_is_new(
    rig: Rig, serving: Serving, stub: Stub
) -> None:
    slow_down(rig, 0.005)
    stream = stub.Generate(ask(max_tokens=24))
    next(stream)
    serving.gateway.drain()
    with grpc.insecure_channel(serving.address) as channel:
        wait_until(lambda: health(channel, GENERATION) == "NOT_SERVING")
        assert health(channel, "") == "SERVING"
    with pytest.raises(grpc.RpcError) as rejected:
        list(stub.Generate(ask()))
    assert rejected.value.code() is grpc.StatusCode.UNAVAILABLE
    assert tokens_of(list(stream)) == alone()
    assert serving.stop(drain_s=5.0)


def test_readiness_falls_with_the_engine_and_streams_end(
    rig: Rig, serving: Serving, stub: Stub
) -> None:
    slow_down(rig, 0.01)
    stream = stub.Generate(ask(max_tokens=300))
    next(stream)
    with grpc.insecure_channel(serving.address) as channel:
        wait_until(lambda: health(channel, GENERATION) == "SERVING")
        rig.engine.stop()
        wait_until(lambda: health(channel, GENERATION) == "NOT_SERVING")
    with pytest.raises(grpc.RpcError) as ended:
        list(stream)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.RpcError, match="the engine is gone"):
        list(stub.Generate(ask()))


def test_readiness_falls_while_the_engine_is_stuck_and_comes_back(rig: Rig) -> None:
    serving = Serving(rig, limits=GatewayLimits(max_step_age_s=1.5))
    try:
        with grpc.insecure_channel(serving.address) as channel:
            stub: Stub = rpc.GenerationServiceStub(channel)
            wait_until(lambda: health(channel, GENERATION) == "SERVING")
            slow_down(rig, 4.0)
            stream = stub.Generate(ask("stuck", max_tokens=1))
            next(stream)
            wait_until(lambda: health(channel, GENERATION) == "NOT_SERVING")
            assert health(channel, "") == "SERVING"
            assert list(stream)[-1].WhichOneof("event") == "finish"
            wait_until(lambda: health(channel, GENERATION) == "SERVING")
    finally:
        serving.close()


def test_reflection_tells_an_outsider_of_the_services(serving: Serving) -> None:
    with grpc.insecure_channel(serving.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([asked]), timeout=5)
        names = {service.name for service in answer.list_services_response.service}
    assert {GENERATION, "paceline.v1.ModelService", "grpc.health.v1.Health"} <= names
