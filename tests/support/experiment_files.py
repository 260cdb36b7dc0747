"""Experiments for tests."""

from pathlib import Path

from cluster.experiment.experiment_config import Experiment, load_experiment
from cluster.experiment.sweep_points import GeneratePoint, points_of

SMALL = """
out = "results"
repeats = 2
[devices]
target = "4ms"
split = "16ms"
draft = "3ms"
alpha = 0.8
[requests]
num = 2
max_tokens = 12
[sweep]
tp = [1, 2]
mode = ["autoregressive", "speculative", "pearl"]
draft_length = [3]
"""
TRAIN = """
kind = "train"
out = "results"
repeats = 1
[train]
sample = "1ms"
batch = 16
steps = 10
overhead = "0.1ms"
[sweep]
workers = [1, 2]
scheme = ["uncoded", "pull"]
factor = [1, 3]
"""


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "experiment.toml"
    file.write_text(text)
    return file


def loaded(tmp_path: Path, text: str = SMALL) -> Experiment:
    return load_experiment(written(tmp_path, text))


def generate_points(experiment: Experiment) -> list[GeneratePoint]:
    return [point for point in points_of(experiment) if isinstance(point, GeneratePoint)]
