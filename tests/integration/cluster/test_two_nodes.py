"""Two raylets of two CPUs: free CPUs and what was asked decide, and causes come at once."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.integration.raylets import Raylets, free_port
from tests.support.models import smollm2_directory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WITHIN_S = 60
"""Ten seconds on an idle machine, and the start of Python on a busy one."""
VIRTUAL = ("--set", "models.virtual=target=5ms,draft=1ms,alpha=0.8")
SCRIPTS = "ray.scripts.scripts"
HOLD = """
import sys, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init(address=sys.argv[1], namespace="hold")
where = NodeAffinitySchedulingStrategy(sys.argv[2], soft=False)
holder = ray.remote(type("Holder", (), {"ready": lambda self: True})).options(
    num_cpus=0.01, scheduling_strategy=where, lifetime="detached", name="holder"
).remote()
ray.get(holder.ready.remote())
"""
RELEASE = """
import sys, ray
ray.init(address=sys.argv[1], namespace="hold")
ray.kill(ray.get_actor("holder"))
"""


@pytest.fixture(scope="module")
def raylets() -> Iterator[Raylets]:
    with Raylets() as nodes:
        for _ in range(2):
            nodes.add_node(cpus=2)
        yield nodes


@contextmanager
def environment(raylets: Raylets, **changes: str) -> Iterator[None]:
    known = dict(raylets.environment)
    raylets.environment.update(changes)
    try:
        yield
    finally:
        raylets.environment.clear()
        raylets.environment.update(known)


def generate(*options: str) -> tuple[str, ...]:
    target = ("--target", str(smollm2_directory()), "--prompt", "Once")
    return ("generate", *target, "--max-tokens", "6", "--json", *options)


def drafters_of(output: str) -> int:
    (row,) = [json.loads(line) for line in output.splitlines()]
    assert row["stats"]["drafted"] > 0
    return int(row["stats"]["drafter_tp"])


def test_a_drafter_has_a_rank_where_a_cpu_is_free_after_the_target(raylets: Raylets) -> None:
    two = raylets.run(*generate("--tp", "2"))
    assert drafters_of(two.stdout) == 1
    assert "on a rank of its own" in two.stderr
    far = raylets.run(
        *generate(
            "--tp", "2", "--set", "models.place.target=pack", "--set", "models.place.drafter=far"
        )
    )
    assert drafters_of(far.stdout) == 1
    assert " drafter on " in far.stderr
    four = raylets.run(*generate("--tp", "4", "--set", "models.place.cpus=1"))
    assert drafters_of(four.stdout) == 0
    assert "in its process: no core is free beside it" in four.stderr


def test_a_place_that_is_asked_for_and_is_not_there_is_rejected(raylets: Raylets) -> None:
    place = (
        "--set",
        "models.place.target=spread",
        "--set",
        "models.place.drafter=far",
        "--set",
        "models.place.wait_s=0",
    )
    far = raylets.run(*generate("--tp", "2", *place), code=2)
    assert "--set models.place.drafter is far: all 2 nodes have target ranks" in far.stderr
    label = raylets.run(
        "generate", *VIRTUAL, "--prompt", "1", "--set", "models.place.domain=nvl", code=2
    )
    assert "no node has this label; the nodes have ray.io/node-id" in label.stderr


def refused(raylets: Raylets, address: str) -> str:
    start_s = time.monotonic()
    arguments = ("generate", *VIRTUAL, "--prompt", "1", "--ray", address)
    printed = raylets.run(*arguments, code=2).stderr
    assert time.monotonic() - start_s < WITHIN_S
    return printed


def test_an_address_that_cannot_be_joined_is_rejected_with_its_cause(
    raylets: Raylets, tmp_path: Path
) -> None:
    assert "no Ray cluster listens at --ray" in refused(raylets, f"127.0.0.1:{free_port()}")
    with environment(raylets, RAY_AUTH_MODE=""):
        assert "requires a token, and none was given" in refused(raylets, raylets.address)
    other = tmp_path / "token"
    other.write_text("0" * 32)
    with environment(raylets, RAY_AUTH_TOKEN_PATH=str(other)):
        assert "requires another token" in refused(raylets, raylets.address)


def test_auto_names_both_of_two_rays(raylets: Raylets) -> None:
    with Raylets() as others:
        others.add_node()
        arguments = ("generate", *VIRTUAL, "--prompt", "1", "--ray", "auto")
        printed = raylets.run(*arguments, code=2, address="").stderr
    assert "Rays run on this machine, at " in printed
    for address in (raylets.address, others.address):
        assert address.rpartition(":")[2] in printed


def test_a_node_that_is_leaving_is_shown_and_skipped_and_named(raylets: Raylets) -> None:
    raylets.add_node(cpus=8)
    nodes = checked(raylets)["nodes"]
    (leaving,) = [node["node_id"] for node in nodes if node["total"]["CPU"] == 8]
    raylets.run("-c", HOLD, raylets.address, leaving, module="")
    notice = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot")
    where = ("--address", raylets.address, "--node-id", leaving)
    deadline = ("--deadline-remaining-seconds", "600")
    raylets.run("drain-node", *where, *notice, *deadline, module=SCRIPTS)
    report = checked(raylets, "--tp", "2", code=1)
    (problem,) = report["problems"]
    assert "is leaving the cluster (it drains, gone in" in problem
    assert leaving[:6] not in report["placement"]
    assert leaving not in report["facts"]
    asked = (
        "--tp",
        "8",
        "--set",
        "models.place.cpus=1",
        "--set",
        "models.place.wait_s=0",
        "--prompt",
        "1",
    )
    printed = raylets.run("generate", *VIRTUAL, *asked, code=2).stderr
    assert f"({leaving[:6]}) is leaving the cluster" in printed
    assert "Not counted: " in printed
    raylets.run("-c", RELEASE, raylets.address, module="")
    deadline_s = time.monotonic() + 120
    while len(checked(raylets, code=None)["nodes"]) > 2:
        assert time.monotonic() < deadline_s, "the node that drains never left"


def checked(raylets: Raylets, *options: str, code: int | None = 0) -> Any:
    finished = raylets.run("cluster", "check", "--json", *VIRTUAL, *options, code=code)
    return json.loads(finished.stdout)
