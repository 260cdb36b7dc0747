"""A node is lost: the target is started on another one; the head is lost: the server ends."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from runtime.client import Client
from tests.support.integration.chaos import NUM_CLIENTS, generate, start_clients
from tests.support.integration.raylets import Raylets
from tests.support.integration.serving_process import ServingProcess
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.waiting import wait_until

LONG = 400


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_requests_continue_on_another_node(tmp_path: Path) -> None:
    checkpoint = save_tiny_checkpoint(tmp_path / "tiny")
    options = ("--drafter", "ngram", "--tp", "2", "--set=restarts=20", "--set=step_limit_s=10")
    with Raylets() as nodes:
        nodes.add_node(cpus=0)  # the driver's: it has no room for ranks
        for _ in range(2):
            nodes.add_node(cpus=3)
        pids = nodes.pids[1:]
        where = (
            "--ray",
            nodes.address,
            "--set",
            "models.place.target=pack",
            "--set",
            "models.place.cpus=1",
        )
        served = ServingProcess(checkpoint, (*options, *where), nodes.environment)
        try:
            with Client(served.address) as client, ThreadPoolExecutor(NUM_CLIENTS) as pool:
                alone = [generate(served.address, n, LONG) for n in range(NUM_CLIENTS)]
                wait_until(lambda: len(client.status().replicas[0].ranks) == 3)
                (rank, *_) = client.status().replicas[0].ranks
                node = next(pid for pid in pids if rank.pid in family(pid))
                running = start_clients(pool, served.address, LONG)
                wait_until(lambda: client.status().open_requests > 0)
                kill_all(node)
                assert [future.result(timeout=300) for future in running] == alone
                (other,) = set(pids) - {node}
                wait_until(lambda: client.status().replicas[0].restarts >= 1)
                wait_until(
                    lambda: any(r.pid in family(other) for r in client.status().replicas[0].ranks)
                )
        finally:
            served.close()


def kill_all(node: int) -> None:
    """Kill a node with all its processes."""
    for pid in family(node):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()


def family(pid: int) -> list[int]:
    """Return a node's processes, the youngest first."""
    node = psutil.Process(pid)
    return [process.pid for process in [*node.children(recursive=True)[::-1], node]]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_lost_head_ends_the_server(tmp_path: Path) -> None:
    """Without Ray's head nothing can be placed: the supervisor of the server restarts both."""
    checkpoint = save_tiny_checkpoint(tmp_path / "tiny")
    with Raylets() as nodes:
        nodes.add_node(cpus=3)
        options = ("--drafter", "ngram", "--ray", nodes.address, "--set=models.place.cpus=1")
        served = ServingProcess(checkpoint, options, nodes.environment)
        try:
            kill_all(nodes.pids[0])
            assert served.process.wait(timeout=180) != 0
        finally:
            served.close()
