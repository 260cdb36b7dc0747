"""The node with the target's ranks is lost: the target is started on another node."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from runtime.service.client import Client
from tests.integration.chaos import NUM_CLIENTS, generate, start_clients, wait_until
from tests.integration.raylets import Raylets
from tests.integration.serving_process import ServingProcess
from tests.tiny_checkpoint import save_tiny_checkpoint

LONG = 400


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_requests_go_on_on_another_node(tmp_path: Path) -> None:
    checkpoint = save_tiny_checkpoint(tmp_path / "tiny")
    options = ("--drafter", "ngram", "--tp", "2", "--restarts", "20", "--step-limit", "10")
    with Raylets() as nodes:
        nodes.add_node(cpus=0)  # the driver's: it has no room for ranks
        pids = [nodes.add_node(cpus=3), nodes.add_node(cpus=3)]
        where = ("--ray", nodes.address, "--place", "target=pack,cpus=1")
        served = ServingProcess(checkpoint, (*options, *where), nodes.environment)
        try:
            with Client(served.address) as client, ThreadPoolExecutor(NUM_CLIENTS) as pool:
                alone = [generate(served.address, n, LONG) for n in range(NUM_CLIENTS)]
                wait_until(lambda: len(client.status().replicas[0].ranks) == 3)
                (rank, *_) = client.status().replicas[0].ranks
                node = next(pid for pid in pids if rank.pid in family(pid))
                running = start_clients(pool, served.address, LONG)
                wait_until(lambda: client.status().open_requests > 0)
                for pid in family(node):
                    psutil.Process(pid).kill()
                assert [future.result(timeout=300) for future in running] == alone
                (other,) = set(pids) - {node}
                wait_until(lambda: client.status().replicas[0].restarts >= 1)
                wait_until(
                    lambda: any(r.pid in family(other) for r in client.status().replicas[0].ranks)
                )
        finally:
            served.close()


def family(pid: int) -> list[int]:
    """Return a node's processes, the youngest first."""
    node = psutil.Process(pid)
    return [process.pid for process in [*node.children(recursive=True)[::-1], node]]
