"""What a request may ask for beside tokens, the async client, and the administrator's calls."""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from parallel.decoding.types import SamplingParams
from runtime.client import AsyncClient, Chunk, Client, ServiceError
from runtime.errors import ConfigError, InvalidValue
from runtime.gateway.limits import GatewayLimits
from runtime.rank.toy_shard import prefix_logits
from tests.support.rig import VOCAB, Rig, expected_tokens, make_submit
from tests.support.serving import CutWire, Serving, slow_down

PROMPT = (1, 2, 3)
SEED = 7


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    made.attach_model()
    yield made
    made.close()


def by_sample(chunks: list[Chunk]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for chunk in chunks:
        found.setdefault(chunk.sample, []).extend(chunk.token_ids)
    return found


def test_samples_come_interleaved_and_each_ends_once(client: Client) -> None:
    chunks = list(client.generate(PROMPT, max_tokens=20, temperature=0.9, seed=SEED, n=4))
    samples = by_sample(chunks)
    assert sorted(samples) == [0, 1, 2, 3]
    assert len({tuple(tokens) for tokens in samples.values()}) == 4
    ends = [chunk for chunk in chunks if chunk.finish_reason]
    assert sorted(chunk.sample for chunk in ends) == [0, 1, 2, 3]
    assert all((end.prompt_tokens, end.completion_tokens) == (3, 20) for end in ends)
    assert all(end.stats is not None and end.stats.accepted > 0 for end in ends)
    alone = make_submit(
        prompt=PROMPT, max_tokens=20, sampling=SamplingParams(temperature=0.9, seed=SEED)
    )
    assert samples[0] == expected_tokens(alone)
    first = list(client.generate(PROMPT, max_tokens=20, temperature=0.9, seed=SEED))
    assert by_sample(first)[0] == samples[0]


def test_samples_survive_a_wire_that_is_cut(rig: Rig, serving: Serving, client: Client) -> None:
    fields: dict[str, Any] = {"max_tokens": 50, "temperature": 0.9, "seed": SEED, "n": 3}
    whole = by_sample(list(client.generate(PROMPT, **fields)))
    slow_down(rig, 0.002)
    wire = CutWire(serving.address, seed=2, most=1500)
    with Client(wire.address) as cut:
        assert by_sample(list(cut.generate(PROMPT, **fields))) == whole
    wire.close()
    assert wire.num_cuts > 0


def test_log_probabilities_are_the_targets_and_survive_a_cut(rig: Rig, serving: Serving) -> None:
    slow_down(rig, 0.002)
    wire = CutWire(serving.address, seed=3, most=2500)
    with Client(wire.address) as client:
        chunks = list(client.generate(PROMPT, max_tokens=40, logprobs=2))
    wire.close()
    tokens = list(PROMPT)
    scored = [(t, one) for c in chunks for t, one in zip(c.token_ids, c.logprobs, strict=True)]
    for token, one in scored:
        logprobs = prefix_logits(tokens, VOCAB).log_softmax(0)
        assert math.isclose(one.logprob, float(logprobs[token]), abs_tol=1e-5)
        assert list(one.top_ids) == logprobs.topk(2).indices.tolist()
        tokens.append(token)
    assert tokens[3:] == expected_tokens(make_submit(prompt=PROMPT, max_tokens=40))
    assert wire.num_cuts > 0
    assert chunks[-1].stats is not None
    assert chunks[-1].stats.accepted > 0


def test_the_async_client_gives_the_same_and_cancels(rig: Rig, serving: Serving) -> None:
    async def both() -> list[list[int]]:
        async with AsyncClient(serving.address) as client:

            async def ask(number: int) -> list[int]:
                stream = client.generate([*PROMPT, number], max_tokens=24)
                return [token async for chunk in stream for token in chunk.token_ids]

            found = await asyncio.gather(*(ask(number) for number in range(6)))
            slow_down(rig, 0.01)
            stream = client.generate("w1 w2", max_tokens=300)
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]  # a generator
            deadline = asyncio.get_running_loop().time() + 5
            while serving.gateway.num_open:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.01)
            with pytest.raises(ServiceError, match="INVALID_ARGUMENT"):
                await anext(client.generate([400], max_tokens=1))
            with pytest.raises(InvalidValue, match="`temperature` is -1"):
                client.generate("w1", temperature=-1)
            assert not await client.cancel("unknown")
            return found

    for number, tokens in enumerate(asyncio.run(both())):
        submit = make_submit(prompt=(*PROMPT, number), max_tokens=24)
        assert tokens == expected_tokens(submit)


def test_a_deadline_reaches_requests_in_the_queue() -> None:
    rig = Rig(max_batch=1)
    slow_down(rig, 0.02)
    serving = Serving(rig)
    with Client(serving.address) as client:
        running = client.generate("w1 w2", max_tokens=60)
        next(running)
        with pytest.raises(ServiceError) as late:
            list(client.generate("w3", max_tokens=4, timeout_s=0.3))
        assert late.value.code == "DEADLINE_EXCEEDED"
        assert sum(len(chunk.token_ids) for chunk in running) > 40
    serving.close()
    rig.close()


class Control:
    """Stands in for the deployment behind a server."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    def set(self, drafter: str | None) -> str:
        self.asked.append(drafter)
        if drafter == "broken":
            raise ConfigError("no such drafter: broken")
        return drafter if drafter is not None else ""

    def set_count(self, num_drafters: int) -> int:
        if num_drafters > 4:
            raise ConfigError(f"{num_drafters} drafters are too many")
        return num_drafters


def test_the_administrator_sees_and_changes(rig: Rig) -> None:
    control = Control()
    serving = Serving(rig, control=control, tokens=("user",), admin_tokens=("root",))
    with Client(serving.address, token="user") as user:
        list(user.generate(PROMPT, max_tokens=24))
        status = user.status()
        assert status.ready
        assert not status.draining
        assert (status.finished_requests, status.open_requests) == (1, 0)
        assert [replica.state for replica in status.replicas] == ["serving"]
        for change in (
            user.drain,
            lambda: user.set_drafter("other"),
            lambda: user.set_drafters(2),
        ):
            with pytest.raises(ServiceError, match=r"PERMISSION_DENIED.*may not administer"):
                change()
    with Client(serving.address, token="root") as root:
        assert root.set_drafter("other") == "other"
        assert root.model().drafter == "other"
        with pytest.raises(ServiceError, match="no such drafter: broken"):
            root.set_drafter("broken")
        assert root.set_drafter(None) == ""
        assert root.model().drafter == ""
        assert root.set_drafters(3) == 3
        with pytest.raises(ServiceError, match="5 drafters are too many"):
            root.set_drafters(5)
        assert control.asked == ["other", "broken", None]
        assert root.drain() == 0
        assert root.status().draining
        with pytest.raises(ServiceError, match="UNAVAILABLE"):
            list(root.generate("w1", patience_s=0))
    serving.close()


def test_one_client_cannot_take_all_there_is(rig: Rig) -> None:
    slow_down(rig, 0.02)
    limits = GatewayLimits(max_open=8, max_open_per_client=2)
    serving = Serving(rig, limits=limits, tokens=("a", "b"))
    with Client(serving.address, token="a") as one, Client(serving.address, token="b") as other:
        running = [one.generate([1, n], max_tokens=200) for n in range(2)]
        for stream in running:
            next(stream)
        with pytest.raises(
            ServiceError, match=r"RESOURCE_EXHAUSTED.*2 requests are open, each client may have 2"
        ):
            list(one.generate("w1", patience_s=0))
        assert list(other.generate("w1", max_tokens=2))[-1].finish_reason == "length"
        assert other.status().rejected_requests == 1
    serving.close()


def test_an_outsider_generates_with_what_reflection_tells(serving: Serving) -> None:
    """No generated code: names and messages come over the wire, as grpcurl does it."""
    with grpc.insecure_channel(serving.address) as channel:
        pool = descriptor_pool.DescriptorPool()
        ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        wanted = reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="paceline.v1.GenerationService"
        )
        (answer,) = ask(iter([wanted]), timeout=5)
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(raw)
            for raw in answer.file_descriptor_response.file_descriptor_proto
        ]
        missing = {name for file in files for name in file.dependency}
        for name in missing - {file.name for file in files}:
            (more,) = ask(iter([reflection_pb2.ServerReflectionRequest(file_by_filename=name)]))
            raws = more.file_descriptor_response.file_descriptor_proto
            files = [*(descriptor_pb2.FileDescriptorProto.FromString(raw) for raw in raws), *files]
        for file in sorted(files, key=lambda file: len(file.dependency)):
            pool.Add(file)
        method = pool.FindServiceByName("paceline.v1.GenerationService").FindMethodByName(
            "Generate"
        )
        asked: Any = message_factory.GetMessageClass(method.input_type)()
        asked.text, asked.max_tokens = "w1 w2 w3", 12
        call = channel.unary_stream(
            "/paceline.v1.GenerationService/Generate",
            request_serializer=type(asked).SerializeToString,
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        events = list(call(asked, timeout=10))
    tokens = [token for event in events for token in event.tokens.token_ids]
    assert tokens == expected_tokens(replace(make_submit(prompt=PROMPT), max_tokens=12))
    assert events[-1].WhichOneof("event") == "finish"
