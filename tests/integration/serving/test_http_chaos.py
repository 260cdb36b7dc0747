"""64 clients of both wires on one server whose leader is killed: no token is lost or repeated."""

import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from runtime.client import Client
from tests.support.integration.chaos import ChaosServer, generate, prompt_of
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.waiting import wait_until

NUM_CLIENTS, NUM_TOKENS = 64, 30
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChaosServer]:
    checkpoint = save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))
    options = ("--drafter", str(checkpoint), "--set", "restarts=20", "--http", HTTP)
    made = ChaosServer(checkpoint, options, target_ms=20, draft_ms=2, wired=False)
    yield made
    made.close()


with socket.create_server(("127.0.0.1", 0)) as free:
    HTTP = f"127.0.0.1:{free.getsockname()[1]}"


def generate_over_http(number: int) -> tuple[list[int], int]:
    """Return what `generate` returns over gRPC, and the number of accepted draft tokens."""
    tokens: list[int] = []
    fields: dict[str, Any] = {"mode": ("pearl", "speculative", "auto")[number % 3]}
    with openai.OpenAI(base_url=f"http://{HTTP}/v1", api_key="x", max_retries=0) as client:
        stream = client.completions.create(
            model=client.models.list().data[0].id,
            prompt=prompt_of(number),
            max_tokens=NUM_TOKENS,
            temperature=0.0 if number % 2 else 0.7,
            seed=number,
            stream=True,
            stream_options={"include_usage": True},
            timeout=300,
            extra_body=fields | {"return_token_ids": True},
        )
        accepted = 0
        for chunk in stream:
            for choice in chunk.choices:
                tokens += (choice.model_extra or {})["token_ids"]
            if chunk.usage is not None:
                accepted = (chunk.usage.model_extra or {})["speculation"]["accepted_tokens"]
    return tokens, accepted


def test_streams_of_both_wires_continue_after_the_leader_is_killed(served: ChaosServer) -> None:
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        alone = [generate(served.address, n, NUM_TOKENS) for n in range(8)]
        numbers = [n % 8 for n in range(NUM_CLIENTS)]
        over_grpc = [pool.submit(generate, served.address, n, NUM_TOKENS) for n in numbers[::2]]
        over_http = [pool.submit(generate_over_http, n) for n in numbers[1::2]]
        served.strike(rank="target rank 0", state="verifying", signal=int(signal.SIGKILL))
        answers = [future.result(timeout=300) for future in over_http]
        assert [tokens for tokens, _ in answers] == [alone[n] for n in numbers[1::2]]
        assert [future.result(timeout=300) for future in over_grpc] == [
            alone[n] for n in numbers[::2]
        ]
    assert sum(accepted for _, accepted in answers) > 0
    with Client(served.address) as client:
        wait_until(lambda: client.status().open_requests == 0)
        assert client.status().replicas[0].restarts >= 1
