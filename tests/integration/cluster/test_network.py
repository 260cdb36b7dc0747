"""Hosts with addresses of their own behind a switch that delays and loses what they send."""

import json
from collections.abc import Iterator

import pytest

from tests.support.integration.namespaces import Namespaces, need_namespaces
from tests.support.integration.raylets import Raylets
from tests.support.tiny_checkpoint import save_tiny_checkpoint

DELAY_S = 0.01
LOSS = 0.01
NUM_HOSTS = 3


@pytest.fixture(scope="module")
def network() -> Iterator[Namespaces]:
    need_namespaces()
    with Namespaces(NUM_HOSTS, delay_s=DELAY_S, loss=LOSS) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def nodes(network: Namespaces) -> Iterator[Raylets]:
    with Raylets() as raylets:
        for number in range(NUM_HOSTS):
            raylets.add_node(host=network.host(number), prefix=network.prefix(number))
        yield raylets


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_check_measures_the_ways_between_hosts(network: Namespaces, nodes: Raylets) -> None:
    finished = nodes.run("cluster", "check", "--json", prefix=network.prefix(0))
    report = json.loads(finished.stdout)
    assert report["problems"] == []
    assert {node["address"] for node in report["nodes"]} == {network.host(n) for n in range(3)}
    assert len(report["pairs"]) == 3
    for pair in report["pairs"]:
        assert pair["times"]["round_trip_s"] >= 2 * DELAY_S
        assert pair["times"]["bytes_per_s"] > 0
    assert report["all_reduce"]["small_s"] >= DELAY_S


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ranks_on_hosts_apart_give_the_tokens_of_one_process(
    network: Namespaces, nodes: Raylets, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The target's group and the drafter's link cross the network; nothing listens on loopback."""
    tiny = str(save_tiny_checkpoint(tmp_path_factory.mktemp("tiny")))
    command = ["generate", "--target", tiny, "--prompt", "w1 w2 w3 w4", "--json"]
    command += ["--max-tokens", "32", "--set", "decode.ignore_eos=true"]
    command += ["--set", "models.threads=1", "--set", "models.draft_wait_s=10"]
    apart = ["--tp", "2", "--drafter", tiny, "--mode", "pearl", "--set", "decode.draft_length=4"]
    apart += [
        "--set",
        "models.place.target=spread",
        "--set",
        "models.place.drafter=far",
        "--set",
        "models.place.interface=eth0",
        "--set",
        "models.place.cpus=1",
    ]
    finished = nodes.run(*command, *apart, prefix=network.prefix(0))
    row = json.loads(finished.stdout)
    for number in range(NUM_HOSTS):
        assert network.host(number) in finished.stderr
    alone = nodes.run(*command, "--mode", "autoregressive", "--ray", "local")
    assert row["token_ids"] == json.loads(alone.stdout)["token_ids"]
    assert row["stats"]["drafted"] > 0
    assert row["stats"]["accepted"] > 0
