"""Four raylets: whatever goes where, the tokens are those of one process."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.integration.raylets import Raylets
from tests.support.tiny_checkpoint import save_tiny_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NUM_TOKENS = 48
PROMPTS = ("w1 w2 w3 w4 w5", "w9 w9 w8 w7")
FAR = "--set models.drafter_tp=2 --set models.place.target=spread --set models.place.drafter=far"


@pytest.fixture(scope="module")
def raylets() -> Iterator[Raylets]:
    with Raylets() as nodes:
        nodes.add_nodes(4)
        yield nodes


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return `paceline generate` on a small model, without what varies."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"text": text}) + "\n" for text in PROMPTS))
    tiny = str(save_tiny_checkpoint(folder / "model"))
    command = ["generate", "--target", tiny, "--drafter", tiny, "--prompts", str(prompts)]
    command += ["--json", "--max-tokens", str(NUM_TOKENS), "--set", "decode.ignore_eos=true"]
    settings = ("models.threads=1", "models.draft_wait_s=10", "decode.draft_length=4")
    return [*command, *(f"--set={setting}" for setting in settings)]


def tokens_of(output: str) -> list[object]:
    return [json.loads(line)["token_ids"] for line in output.splitlines()]


@pytest.fixture(scope="module")
def expected(raylets: Raylets, command: list[str]) -> list[object]:
    """What one process makes of the prompts, one token at a time."""
    finished = raylets.run(*command, "--mode", "autoregressive", "--ray", "local")
    return tokens_of(finished.stdout)


@pytest.mark.parametrize(
    ("options", "num_nodes"),
    [
        (
            "--tp 2 --set models.place.target=spread --set models.place.drafter=near "
            "--set models.place.cpus=0.5 --mode pearl",
            2,
        ),
        (f"--tp 2 {FAR} --set models.place.cpus=1 --mode pearl", 4),
        (f"--tp 2 {FAR} --mode speculative", 4),
        (
            "--tp 3 --set models.place.target=spread --set models.place.cpus=1 --mode pearl "
            "--set models.link=gloo",
            4,
        ),
    ],
)
def test_ranks_across_nodes_give_the_tokens_of_one_process(
    options: str, num_nodes: int, raylets: Raylets, command: list[str], expected: list[object]
) -> None:
    finished = raylets.run(*command, *options.split())
    assert tokens_of(finished.stdout) == expected
    for line in finished.stdout.splitlines():
        stats = json.loads(line)["stats"]
        assert stats["drafted"] > 0
        assert stats["accepted"] > 0
    (where,) = [line for line in finished.stderr.splitlines() if line.startswith("target on ")]
    target, _, drafter = where.removeprefix("target on ").partition(", drafter on ")
    assert len({*target.split(" + "), *drafter.split(" + ")}) == num_nodes


def test_shared_memory_between_nodes_is_rejected(raylets: Raylets, command: list[str]) -> None:
    options = (
        "--tp",
        "2",
        "--set",
        "models.group_backend=shm",
        "--set",
        "models.place.target=spread",
    )
    refused = raylets.run(*command, *options, code=2)
    assert (
        "--set models.group_backend is shm: ranks that share memory cannot be on" in refused.stderr
    )


def test_a_check_finds_all_well_or_says_what_is_short(raylets: Raylets) -> None:
    virtual = ("--set", "models.virtual=target=5ms,draft=1ms,alpha=0.8", "--tp", "2")
    well = json.loads(raylets.run("cluster", "check", "--json", *virtual).stdout)
    assert well["problems"] == []
    assert len(well["nodes"]) == len(well["facts"]) == 4
    assert len(well["pairs"]) == 6
    assert well["all_reduce"]["small_s"] > 0
    assert well["placement"].startswith("target on ")
    devices = ("--set", "models.virtual=target=5ms,draft=1ms,alpha=0.8")
    short = ("--tp", "5", "--set", "models.place.cpus=1", *devices)
    finished = raylets.run("cluster", "check", "--json", *short, code=1)
    (problem,) = json.loads(finished.stdout)["problems"]
    assert "target: 5 rank(s) of 1 CPU do not fit" in problem
