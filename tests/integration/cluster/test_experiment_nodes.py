"""An experiment over nodes: ranks on one raylet or on two, as its points require."""

import json
from pathlib import Path

import pytest

from tests.support.integration.raylets import Raylets

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SWEEP = """
out = "results"
repeats = 1
ray = "auto"
[devices]
target = "30ms"
split = "60ms"
exchanges = 2
draft = "10ms"
alpha = 0.8
[requests]
num = 1
max_tokens = 12
place = { cpus = 0.25 }
[sweep]
nodes = [1, 2]
tp = [2]
mode = ["pearl"]
draft_length = [3]
"""


def test_points_on_one_and_on_two_nodes_have_the_same_tokens(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text(SWEEP)
    with Raylets() as raylets:
        raylets.add_nodes(2)
        finished = raylets.run("experiment", "run", str(file), "--json")
        rows = json.loads(finished.stdout)["rows"]
        assert [row["nodes"] for row in rows] == [1, 2]
        assert all(row["identical"] and row["rate"] > 0 for row in rows)
        file.write_text(SWEEP.replace("nodes = [1, 2]", "nodes = [3]").replace("[2]", "[4]"))
        refused = raylets.run("experiment", "run", str(file), "--json", code=1)
        (row,) = json.loads(refused.stdout)["rows"]
        assert "`place.nodes` is 3: 2 of 2 nodes fit a rank" in row["errors"][0]
