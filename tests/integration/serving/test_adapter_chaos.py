"""Requests with three adapters and with none continue, token for token, after losses."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModelForCausalLM

from runtime.client import Client, RequestStats
from tests.support.integration.chaos import ChaosServer
from tests.support.integration.wires import Mode
from tests.support.peft_adapters import save_peft_adapter
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.waiting import wait_until

NAMES = ("", "a", "b", "c")
PROMPT = [3, 9, 4, 3, 9, 4, 3, 9]
NUM_CLIENTS, NUM_TOKENS = 16, 100
Served = tuple[ChaosServer, dict[str, list[int]]]
pytestmark = pytest.mark.slow


@pytest.fixture(params=[1, 2])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("adapters")
    checkpoint = save_tiny_checkpoint(directory / "tiny")
    model = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    merged, options = {"": model}, []
    for seed, name in enumerate(NAMES[1:]):
        merged[name] = save_peft_adapter(model, directory / name, seed=seed)
        options.append(f"--adapter={name}={directory / name}")
    alone: dict[str, list[int]] = {}
    for name, one in merged.items():
        text = list(PROMPT)
        with torch.inference_mode():
            for _ in range(NUM_TOKENS):
                logits = one(torch.tensor([text]), use_cache=False).logits
                text.append(int(logits[0, -1].argmax()))
        alone[name] = text[len(PROMPT) :]
    assert len(set(map(tuple, alone.values()))) == len(NAMES)
    settings = [f"models.{one}" for one in ("cache_tokens=768", "max_batch=16", "draft_wait_s=10")]
    settings += ["models.weights=float32", "restarts=20"]
    options += [f"--tp={request.param}", "--drafter", str(checkpoint)]
    options += [f"--set={setting}" for setting in settings]
    made = ChaosServer(checkpoint, options, target_ms=20, draft_ms=2, wired=False)
    yield made, alone
    made.close()


def test_adapters_continue_through_preemption_replay_and_resumption(served: Served) -> None:
    server, alone = served

    def ask(number: int) -> tuple[list[int], RequestStats]:
        tokens: list[int] = []
        with Client(server.address) as client:
            for chunk in client.generate(
                PROMPT,
                model=NAMES[number % 4] or None,
                mode=("pearl", "speculative")[number // 4 % 2],
                max_tokens=NUM_TOKENS,
                timeout_s=300,
            ):
                tokens += chunk.token_ids
                stats = chunk.stats
                num_tokens[number] = len(tokens)
        assert stats is not None
        return tokens, stats

    num_tokens = dict.fromkeys(range(NUM_CLIENTS), 0)
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        futures = [pool.submit(ask, number) for number in range(NUM_CLIENTS)]
        wait_until(lambda: sum(num_tokens.values()) > 50, 120)
        server.clients.cut()
        server.clients.mode = Mode.PASS
        server.strike(rank="target rank 0", state="verifying", signal=int(signal.SIGKILL))
        answers = [future.result(timeout=400) for future in futures]
    for number, (tokens, _) in enumerate(answers):
        assert tokens == alone[NAMES[number % 4]], number
    assert sum(stats.accepted for _, stats in answers) > 0
    assert sum(stats.preemptions for _, stats in answers) > 0
    assert sum(stats.replays for _, stats in answers) > 0
