"""A prompt of any length costs the other streams nothing."""

import asyncio
import threading
import time
from typing import Any

import grpc
import pytest

from protos.paceline.v1 import service_pb2 as pb
from protos.paceline.v1 import service_pb2_grpc as rpc
from runtime.client import Client, ServiceError
from runtime.models.tokenizer import Tokenizer
from runtime.requests.prompt_limits import PromptLimits
from tests.support.rig import Rig, expected_tokens, make_submit
from tests.support.serving import Serving, slow_down
from tests.support.waiting import wait_until

PROMPT = (1, 2, 3)
MOST = 400 * 4  # the toy's context, each token "w47" and a space


def turns(*contents: str) -> pb.Chat:
    return pb.Chat(messages=[pb.ChatMessage(role="user", content=text) for text in contents])


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (
            pb.GenerateRequest(text="w1 " * 3_000_000),
            f"text has 9000000 characters, and at most {MOST} can fit the context of 400 tokens",
        ),
        (
            pb.GenerateRequest(chat=turns("x" * 900, "y" * 900)),
            f"chat.messages has 1800 characters, and at most {MOST} can fit",
        ),
        (
            pb.GenerateRequest(chat=turns(*["x"] * 401)),
            "chat.messages has 401 messages, and at most 400 can fit",
        ),
        (
            pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1] * 1_000_000)),
            "token_ids has 1000000 tokens, and at most 400 can fit",
        ),
        (
            pb.TokenizeRequest(text="w1 " * 3_000_000),
            f"text has 9000000 characters, and at most {MOST} can fit",
        ),
        (pb.DetokenizeRequest(ids=[1] * 1_000_000), "ids has 1000000 tokens, and at most 400"),
    ],
)
def test_what_cannot_fit_is_rejected_by_its_size(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, request_: Any, words: str
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was read")

    for name in ("encode", "encode_chat", "decode"):
        monkeypatch.setattr(Tokenizer, name, never)
    with grpc.insecure_channel(serving.address) as channel:
        generation: Any = rpc.GenerationServiceStub(channel)
        model = rpc.ModelServiceStub(channel)
        calls: dict[type, Any] = {
            pb.GenerateRequest: lambda request: list(generation.Generate(request)),
            pb.TokenizeRequest: model.Tokenize,
            pb.DetokenizeRequest: model.Detokenize,
        }
        with pytest.raises(grpc.RpcError) as rejected:
            calls[type(request_)](request_)
    assert rejected.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in str(rejected.value.details())


def test_a_prompt_that_fills_the_context_is_within_the_limit(client: Client) -> None:
    prompt = " ".join(["w47"] * 399)
    assert list(client.generate(prompt, max_tokens=1))[-1].prompt_tokens == 399


def test_streams_and_short_prompts_do_not_wait_for_a_long_one(
    rig: Rig, serving: Serving, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer stands still on long prompts until the others are done."""
    gate, begun = threading.Event(), threading.Semaphore(0)
    encode = Tokenizer.encode

    def held(self: Tokenizer, text: str, *, whole: bool = True) -> list[int]:
        if len(text) > 40_000:
            begun.release()
            assert gate.wait(60)
        return encode(self, text, whole=whole)

    monkeypatch.setattr(Tokenizer, "encode", held)
    serving.server._model.limits = PromptLimits(context=400, characters=1 << 20)
    slow_down(rig, 0.01)
    stream = client.generate(PROMPT, max_tokens=60)
    first = next(stream)
    errors: list[str] = []

    def ask() -> None:
        with pytest.raises(ServiceError) as rejected:
            list(client.generate("w1 " * 20_000))
        errors.append(rejected.value.code)

    longs = [threading.Thread(target=ask) for _ in range(4)]
    for thread in longs:
        thread.start()
    begun.acquire(timeout=30)
    tokens = [token for chunk in (first, *stream) for token in chunk.token_ids]
    assert tokens == expected_tokens(make_submit(prompt=PROMPT, max_tokens=60))
    assert client.tokenize("w4 w5") == (4, 5)
    assert list(client.generate("w1 w2", max_tokens=2))[-1].finish_reason == "length"
    assert not errors
    gate.set()
    for thread in longs:
        thread.join(60)
    assert errors == ["INVALID_ARGUMENT"] * 4


def test_a_long_prompt_whose_client_leaves_is_not_read(
    serving: Serving, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, reads = threading.Event(), list[int]()
    encode = Tokenizer.encode

    def held(self: Tokenizer, text: str, *, whole: bool = True) -> list[int]:
        reads.append(len(text))
        assert gate.wait(60)
        return encode(self, text, whole=whole)

    monkeypatch.setattr(Tokenizer, "encode", held)
    serving.server._model.limits = PromptLimits(context=400, characters=1 << 20)
    request = pb.GenerateRequest(text="w1 " * 20_000)
    with grpc.insecure_channel(serving.address) as channel:
        stub: Any = rpc.GenerationServiceStub(channel)
        calls = [stub.Generate(request) for _ in range(8)]
        wait_until(lambda: len(reads) == 2)  # the threads for long prompts
        for call in calls:
            call.cancel()
        ended = serving.gateway.metrics
        wait_until(lambda: ended.num_finished == 8)
        gate.set()
        assert client.tokenize("w4") == (4,)
    assert len(reads) == 3


def test_a_request_cancelled_by_name_before_it_is_accepted_ends(
    serving: Serving, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, begun = threading.Event(), threading.Event()
    encode = Tokenizer.encode

    def held(self: Tokenizer, text: str, *, whole: bool = True) -> list[int]:
        begun.set()
        assert gate.wait(60)
        return encode(self, text, whole=whole)

    monkeypatch.setattr(Tokenizer, "encode", held)
    found: list[Any] = []
    asking = threading.Thread(
        target=lambda: found.extend(client.generate("w1", request_id="mine", max_tokens=300))
    )
    asking.start()
    assert begun.wait(30)
    assert client.cancel("mine")
    gate.set()
    asking.join(30)
    assert found[-1].finish_reason == "cancelled"
    assert serving.gateway.num_open == 0


async def longest_lag_s(until: threading.Event) -> float:
    """Return how long the loop kept a task waiting that only wants to run, at the most."""
    longest_s, last_s = 0.0, time.monotonic()
    while not until.is_set():
        await asyncio.sleep(0.001)
        now_s = time.monotonic()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
    return longest_s


def test_the_loop_runs_on_while_a_long_prompt_is_tokenized(
    serving: Serving, client: Client
) -> None:
    """On the loop, the longest lag would be all the time that the prompt takes."""
    serving.server._model.limits = PromptLimits(context=400, characters=1 << 24)
    done = threading.Event()
    lag = asyncio.run_coroutine_threadsafe(longest_lag_s(done), serving._loop)
    start_s = time.monotonic()
    with pytest.raises(ServiceError, match="the prompt has 700000 tokens"):
        list(client.generate("w1 " * 700_000))
    took_s = time.monotonic() - start_s
    done.set()
    assert lag.result(30) < took_s / 4
