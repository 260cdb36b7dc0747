"""Several raylets: ranks on different nodes give the tokens of one process."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.raylets import Raylets
from tests.tiny_checkpoint import save_tiny_checkpoint

NUM_NODES = 4
NUM_TOKENS = 48
PROMPTS = ("w1 w2 w3 w4 w5", "w9 w9 w8 w7")


@pytest.fixture(scope="module")
def raylets() -> Iterator[Raylets]:
    with Raylets() as nodes:
        for _ in range(NUM_NODES):
            nodes.add_node()
        yield nodes


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_checkpoint(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in PROMPTS))
    return str(path)


def generate(raylets: Raylets, tiny: str, prompts: str, *options: str) -> list[dict[str, object]]:
    """Run `paceline generate` and return its rows."""
    command = ["generate", "--target", tiny, "--prompts", prompts, "--json", "--ignore-eos"]
    command += ["--max-tokens", str(NUM_TOKENS), "--draft-wait", "10", "--threads", "1"]
    finished = raylets.run(*command, *options)
    return [json.loads(line) for line in finished.stdout.splitlines()]


def tokens_of(rows: list[dict[str, object]]) -> list[object]:
    return [row["token_ids"] for row in rows]


@pytest.fixture(scope="module")
def expected(raylets: Raylets, tiny: str, prompts: str) -> list[object]:
    """What one process makes of the prompts, one token at a time."""
    options = ("--mode", "autoregressive", "--ray", "local")
    return tokens_of(generate(raylets, tiny, prompts, *options))


@pytest.mark.parametrize(
    "place", ["target=spread,drafter=near,cpus=0.5", "target=spread,drafter=far"]
)
def test_a_target_across_nodes_gives_the_tokens_of_one_process(
    place: str, raylets: Raylets, tiny: str, prompts: str, expected: list[object]
) -> None:
    """The group is on gloo between raylets, the drafter on a third one behind a gRPC link."""
    options = ("--drafter", tiny, "--tp", "2", "--mode", "pearl", "--place", place)
    rows = generate(raylets, tiny, prompts, *options, "--draft-length", "4")
    assert tokens_of(rows) == expected
    for row in rows:
        stats = row["stats"]
        assert isinstance(stats, dict)
        assert stats["drafted"] > 0
        assert stats["accepted"] > 0
