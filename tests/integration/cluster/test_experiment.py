"""Experiments on real actors: they accept what the simulator accepts, and record their work."""

from pathlib import Path

import pytest

from cluster.experiment.run import run
from cluster.experiment.store import read_plan, read_results, read_timeline
from cluster.experiment.timeline_chart import overlap
from cluster.options.experiment_options import ExperimentOptions
from runtime.timeline import SpanKind

pytestmark = pytest.mark.usefixtures("ray_session")
GENERATE = """
out = "results"
repeats = 1
[devices]
target = "10ms"
split = "20ms"
exchanges = 2
draft = "5ms"
alpha = 0.8
[requests]
num = 3
max_tokens = 24
[sweep]
tp = [2]
mode = ["autoregressive", "speculative", "pearl"]
draft_length = [3]
"""
LOAD = GENERATE.replace("tp = [2]", "replicas = [2]\nrate = [20.0]").replace(
    '["autoregressive", "speculative", "pearl"]', '["pearl"]'
)
TRAIN = """
kind = "train"
out = "results"
repeats = 1
[train]
sample = "2ms"
batch = 16
steps = 3
[sweep]
workers = [2]
scheme = ["uncoded", "pull"]
"""


def measured(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "experiment.toml"
    file.write_text(text)
    assert run(ExperimentOptions(file=file)) == 0
    return tmp_path / "results"


def test_virtual_devices_accept_what_the_simulator_accepts(tmp_path: Path) -> None:
    directory = measured(tmp_path, GENERATE)
    plan = read_plan(directory)
    results = {one.key: one for one in read_results(directory)}
    assert len(results) == 3
    assert len({one.digest for one in results.values()}) == 1  # the same tokens in every mode
    overlaps = {}
    for key, one in results.items():
        if not one.figures["missed_drafts"]:
            assert one.figures["accepted"] == plan[key].accepted
            assert one.figures["rejected"] == plan[key].rejected
            assert one.figures["rounds"] == plan[key].rounds
        spans = read_timeline(directory, key)
        assert sum(span.phase is SpanKind.VERIFY for span in spans) >= one.figures["rounds"]
        overlaps[key.split("-")[-1]] = overlap(spans)
    assert overlaps["pearl"] > 0.3 > overlaps["speculative"] >= overlaps["autoregressive"] == 0


def test_requests_come_at_random_times_to_several_replicas(tmp_path: Path) -> None:
    (one,) = read_results(measured(tmp_path, LOAD))
    assert one.rate > 0
    assert one.figures["accepted"] > 0
    assert one.figures["total_p90_s"] >= one.figures["total_p50_s"] > 0


def test_training_schemes_are_measured_on_timed_workers(tmp_path: Path) -> None:
    results = {one.key: one for one in read_results(measured(tmp_path, TRAIN))}
    assert set(results) == {"w2-uncoded-1x", "w2-pull-1x"}
    assert all(one.figures["step_s"] > 0.016 for one in results.values())
