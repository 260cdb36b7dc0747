"""Constrained streams under losses: clients get what an undisturbed server gives."""

import json
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from runtime.client import Client
from tests.support.integration.chaos import NUM_CLIENTS, ChaosServer, prompt_of
from tests.support.tiny_checkpoint import save_byte_checkpoint
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MAX_TOKENS = 80
MODES = ("pearl", "speculative", "auto", "outcomes")
WORDS = "([a-z]{3,9} ){4,12}[.!?]"
SCHEMA = {
    "type": "object",
    "properties": {
        "is_the_fox_quick": {"type": "boolean"},
        "number_of_foxes": {"type": "integer", "minimum": 0, "maximum": 99},
        "name_of_the_fox": {"enum": ["naïve", "quick", "lazy fox"]},
    },
    "required": ["is_the_fox_quick", "number_of_foxes", "name_of_the_fox"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}


@dataclass(frozen=True)
class Stream:
    """What a client got."""

    token_ids: tuple[int, ...]
    text: str
    complete: bool | None


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChaosServer]:
    folder = tmp_path_factory.mktemp("constrained")
    checkpoint = save_byte_checkpoint(folder / "model")
    options = ("--tp", "2", "--drafter", str(checkpoint), "--journal", str(folder / "journal"))
    # Less cache than eight clients need: some are preempted.
    limits = ("--set=step_limit_s=8", "--set=restarts=50", "--set=models.cache_tokens=500")
    server = ChaosServer(checkpoint, (*options, *limits), wired=False)
    yield server
    server.close()


def ask(server: ChaosServer, number: int) -> Stream:
    constraint = {"json_schema": SCHEMA} if number % 2 else {"regex": WORDS}
    token_ids: list[int] = []
    text, complete = "", None
    with Client(server.address) as client:
        for chunk in client.generate(
            prompt_of(number),
            max_tokens=MAX_TOKENS,
            temperature=(0.0, 0.8)[number // 2 % 2],
            seed=number,
            mode=MODES[number // 2],
            timeout_s=300,
            **constraint,
        ):
            token_ids += chunk.token_ids
            text += chunk.text
            complete = chunk.complete if chunk.finish_reason is not None else complete
    return Stream(tuple(token_ids), text, complete)


@pytest.fixture(scope="module")
def alone(served: ChaosServer) -> list[Stream]:
    """What each client gets without a loss, one after the other."""
    found = [ask(served, number) for number in range(NUM_CLIENTS)]
    for number, stream in enumerate(found):
        if number % 2:
            assert stream.complete == is_record(stream.text)
        else:
            assert stream.complete == bool(re.fullmatch(WORDS, stream.text))
    assert sum(stream.complete is True for stream in found) >= NUM_CLIENTS // 2
    return found


def is_record(text: str) -> bool:
    try:
        found = json.loads(text)
    except ValueError:
        return False
    assert list(found) == SCHEMA["required"]
    return True


@pytest.mark.parametrize(
    ("role", "state"), [("drafter rank 0", "drafting"), ("target rank 0", "verifying"), ("", "")]
)
def test_clients_get_every_constrained_token(
    served: ChaosServer, alone: list[Stream], role: str, state: str
) -> None:
    with ThreadPoolExecutor(NUM_CLIENTS + 1) as pool:
        striking = None
        if role:
            kill = {"rank": role, "state": state, "signal": int(signal.SIGKILL), "seconds": 0.0}
            striking = pool.submit(served.strike, **kill)
        running = [pool.submit(ask, served, number) for number in range(NUM_CLIENTS)]
        found = [future.result(timeout=600) for future in running]
        if striking is not None:
            assert striking.result(timeout=60)["state"] == state
    assert found == alone
    wait_until(lambda: num_drafters(served) == 1, 180)


def num_drafters(server: ChaosServer) -> int:
    with Client(server.address) as client:
        (replica,) = client.status().replicas
    return replica.engine.drafters
