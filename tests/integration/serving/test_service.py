"""A service on a cluster outlives the process that started it, its own death, and its keeper's."""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from runtime.client import Client, ServiceError
from runtime.node.keeper import KeptState
from tests.support.integration.raylets import Raylets, free_port
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.waiting import wait_until

PROMPT = "w1 w2 w3 w4 w5"
WAIT_S = 90
NUM_TOKENS = 600
ONE_THREAD = "--set=models.threads=1"


@pytest.fixture(scope="module")
def node() -> Iterator[Raylets]:
    with Raylets() as raylets:
        raylets.add_node(cpus=2)
        yield raylets


def status(node: Raylets) -> dict[str, object]:
    (found,) = json.loads(node.run("service", "list", "--json").stdout).values()
    assert isinstance(found, dict | None)
    return found or {"state": "unreachable", "pid": None}


def await_ready(node: Raylets, address: str, last_pid: int) -> dict[str, object]:
    """Return the status of a server that was started in place of another one."""
    wait_until(lambda: not psutil.pid_exists(last_pid), WAIT_S)
    with Client(address) as client:  # one `service list` takes longer than many such calls
        wait_until(lambda: is_ready(client), WAIT_S, poll_s=0.1)
    deadline_s = time.monotonic() + WAIT_S
    while (found := status(node))["state"] != KeptState.READY or found["pid"] == last_pid:
        assert time.monotonic() < deadline_s, found
    return found


def is_ready(client: Client) -> bool:
    try:
        return client.status().ready
    except ServiceError:  # nothing listens yet
        return False


def ask(address: str, chunks: list[int]) -> str:
    with Client(address) as client:
        text = ""
        for chunk in client.generate(
            PROMPT,
            max_tokens=NUM_TOKENS,
            ignore_eos=True,
            seed=3,
            timeout_s=WAIT_S,
        ):
            chunks.append(len(chunk.text))
            text += chunk.text
        return text


def test_a_service_continues_after_every_death(node: Raylets, tmp_path: Path) -> None:
    tiny = str(save_tiny_checkpoint(tmp_path / "tiny"))
    address = f"127.0.0.1:{free_port()}"
    serve = ("--target", tiny, "--listen", address, "--journal", str(tmp_path / "journal"))
    started = node.run("service", "start", "toy", *serve, "--drafter", "lookup", ONE_THREAD)
    assert started.stdout == f"toy is ready: {tiny} on {address}, drafter lookup\n"
    again = node.run("service", "start", "toy", *serve, code=2)
    assert "there is a service 'toy' already" in again.stderr

    expected = ask(address, [])
    first = status(node)
    pid = first["pid"]
    assert isinstance(pid, int)
    chunks: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, address, chunks)
        while len(chunks) < 3:
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        assert answer.result() == expected, "the client continues where it was"
    second = await_ready(node, address, pid)
    assert (second["restarts"], second["exit_code"]) == (1, -signal.SIGKILL)

    pid = second["pid"]
    assert isinstance(pid, int)
    keeper = psutil.Process(pid).parent()
    assert keeper is not None
    assert "KeeperActor" in keeper.name() + " ".join(keeper.cmdline())
    keeper.kill()
    await_ready(node, address, pid)
    assert ask(address, []) == expected

    stopped = node.run("service", "stop", "toy")
    assert stopped.stdout == "toy ended, exit code 0\n"
    assert json.loads(node.run("service", "list", "--json").stdout) == {}
    assert not [p for p in node.processes() if "serve" in p.cmdline()]


def test_what_cannot_be_served_is_said_at_once(node: Raylets) -> None:
    rejected = node.run("service", "start", "bad", "--target", "/nowhere", code=2)
    assert "/nowhere" in rejected.stderr
    assert "the service 'bad' did not start: serve ended with 2" in rejected.stderr
    assert json.loads(node.run("service", "list", "--json").stdout) == {}
    unknown = node.run("service", "stop", "bad", code=2)
    assert "there is no service 'bad': there are none" in unknown.stderr
