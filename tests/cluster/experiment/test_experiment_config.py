"""The values that an experiment file accepts."""

from pathlib import Path

import pytest

from cluster.experiment.experiment_config import load_experiment
from cluster.experiment.generation_points import GenerateBench
from cluster.experiment.sweep_points import GeneratePoint, points_of
from cluster.placement.cluster_nodes import this_machine
from runtime.errors import ConfigError
from tests.support.experiment_files import SMALL, TRAIN, generate_points, loaded, written
from tests.support.models import smollm2_directory


def test_durations_defaults_and_placement(tmp_path: Path) -> None:
    experiment = loaded(tmp_path)
    assert experiment.devices is not None
    assert experiment.devices.split == pytest.approx(0.016)
    assert experiment.network.link == pytest.approx(0.00075)
    assert experiment.out == str(tmp_path / "results")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("repeats = 2", "repeats = 0", "repeats is 0: .* greater than or equal to 1"),
        ("repeats = 2", "repeat = 2", "unknown key repeat; did you mean repeats"),
        ("alpha = 0.8", "alfa = 0.8", "unknown key devices.alfa; did you mean alpha"),
        ("alpha = 0.8", "alpha = 1.5", "devices.alpha is 1.5"),
        ('draft = "3ms"', 'draft = "3"', "devices.draft is '3': .* write a number and a unit"),
        ('draft = "3ms"', "", "give either draft, or layers"),
        ('draft = "3ms"', 'draft = "3ms"\nlayers = 4', "give either draft, or layers"),
        ('out = "results"', "", "out is missing"),
        ("tp = [1, 2]", "tp = [0]", r"sweep.tp.0 is 0"),
        ("num = 2", 'num = 2\nplace = "target=pack"', r"write \[requests.place\]"),
        ("num = 2", "num = 2\nplace = { cpus = 0 }", "requests.place.cpus is 0"),
        ("num = 2", "num = 2\nplace = { node = 1 }", "did you mean requests.place.nodes"),
        ("tp = [1, 2]", "tp = []", r"sweep.tp is \[\]"),
        ("tp = [1, 2]", "nodes = [4]", "sweep.nodes has 4, .* more nodes than ranks"),
        ("tp = [1, 2]", "workers = [1, 2]", "sweep.workers has no effect when kind is 'generate'"),
        ("tp = [1, 2]", "layer_parallel = [2]", "devices.draft has no layers"),
        ("tp = [1, 2]", 'layer_parallel = ["on"]', "sweep.layer_parallel has 'on'"),
        ("draft_length = [3]", "drafter_tp = [0]", "sweep.drafter_tp has 0, .* its own device"),
        ("draft_length = [3]", "draft_length = [-1]", "sweep.draft_length has -1"),
        ('"pearl"]', '"fast"]', "sweep.mode.2 is 'fast'"),
        ("[devices]", "[device]", "unknown key device; did you mean devices"),
        ("[requests]", "x = [\n[requests]", "not TOML"),
    ],
)
def test_invalid_values_are_rejected_by_key(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in SMALL
    with pytest.raises(ConfigError, match=words):
        points_of(loaded(tmp_path, SMALL.replace(old, new)))


def test_more_drafters_than_layers_are_rejected(tmp_path: Path) -> None:
    text = SMALL.replace('draft = "3ms"', 'layers = 2\nattention = "1ms"')
    with pytest.raises(ConfigError, match=r"sweep.drafter_tp has 3: devices.layers are 2"):
        points_of(loaded(tmp_path, text.replace("tp = [1, 2]", "drafter_tp = [1, 3]")))


def test_a_training_sweep_needs_its_section(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'kind is "train": add a section \[train\]'):
        loaded(tmp_path, 'kind = "train"\nout = "x"\n[sweep]\nworkers = [1]\n')
    assert len(points_of(loaded(tmp_path, TRAIN))) == 8


def test_the_ranks_of_a_real_drafter_must_match_the_sweep(tmp_path: Path) -> None:
    model = f'[model]\ntarget = "{smollm2_directory()}"\nprompt = "a"\ndrafter = "lookup"\n'
    text = f'out = "x"\n{model}[sweep]\ndrafter_tp = [1]\nmode = ["speculative"]\n'
    words = "drafter lookup runs in the target's process: use 0"
    with pytest.raises(ConfigError, match=rf"point tp1-d1-.*{words}"):
        GenerateBench(
            experiment := loaded(tmp_path, text), generate_points(experiment), (this_machine(),)
        )
    experiment = loaded(tmp_path, text.replace("drafter_tp = [1]", "drafter_tp = [0]"))
    bench = GenerateBench(experiment, generate_points(experiment), (this_machine(),))
    assert bench.num_actors == 1
    heads = loaded(tmp_path, text.replace("drafter_tp = [1]", "drafter_tp = [0]\ntp = [1, 10]"))
    with pytest.raises(ConfigError, match=r"point tp10-.*`tp` is 10: .* 9 query heads"):
        GenerateBench(heads, generate_points(heads), (this_machine(),))


def test_paths_are_relative_to_the_file_and_names_are_unchanged(tmp_path: Path) -> None:
    for name in ("tiny", "sweeps"):
        (tmp_path / name).mkdir()
    model = '[model]\ntarget = "../tiny"\ndrafter = "lookup"\nprompts = "a.jsonl"\n'
    found = loaded(
        tmp_path / "sweeps", f'out = "x"\n{model}[sweep]\nmode = ["speculative"]\n'
    ).model
    assert found is not None
    assert (found.target, found.drafter) == (str(tmp_path / "tiny"), "lookup")
    assert found.prompts == str(tmp_path / "sweeps" / "a.jsonl")


def test_results_do_not_go_into_an_upload(tmp_path: Path) -> None:
    upload = tmp_path / "working_dir_files" / "_ray_pkg_0a1b"
    upload.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"out is .*results, in this job's upload.*--out"):
        loaded(upload)
    file = written(upload, SMALL)
    assert load_experiment(file, tmp_path / "kept").out == str(tmp_path / "kept")


def test_plain_points_are_not_repeated_for_each_drafter(tmp_path: Path) -> None:
    text = SMALL.replace("draft_length = [3]", "draft_length = [2, 3]\ndrafter_tp = [1, 2]")
    points = points_of(loaded(tmp_path, text))
    plain = [p for p in points if isinstance(p, GeneratePoint) and p.mode == "autoregressive"]
    assert [point.key for point in plain] == [
        "tp1-autoregressive",
        "tp2-autoregressive",
    ]
    assert [point.devices for point in plain] == [1, 2]
    assert len(points) == 2 + 2 * 2 * 2 * 2
    assert len({point.key for point in points}) == len(points)
