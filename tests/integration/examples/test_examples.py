"""The programs in examples/ run as their docstrings show."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from examples.jedi_members import CODE, members
from tests.support.integration.serving_process import ROOT, ServingProcess

EXAMPLES = ROOT / "examples"


@pytest.fixture
def tiny(tiny_checkpoint: Path) -> str:
    return str(tiny_checkpoint)


@pytest.fixture
def on_shared_ray(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001  (it must be up)
    """Processes that the test starts join the Ray of all integration tests."""
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)


def output_of(name: str, *arguments: str) -> str:
    """Run an example and return what it prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("on_shared_ray")
def test_generate_prints_the_text_and_the_accepted_tokens(tiny: str) -> None:
    printed = output_of("generate.py", "--target", tiny, "--prompt", "w1 w2", "--max-tokens", "8")
    assert printed.startswith("w1 w2")
    assert "draft tokens accepted" in printed


@pytest.mark.usefixtures("on_shared_ray")
def test_compare_modes_finds_the_same_tokens_in_every_mode(tiny: str) -> None:
    printed = output_of(
        "compare_modes.py", "--target", tiny, "--prompt", "w1 w2", "--max-tokens", "8"
    )
    assert printed.splitlines()[-1] == "identical tokens"


@pytest.mark.usefixtures("on_shared_ray")
def test_train_and_merge_generates_from_the_merged_model(tiny: str, tmp_path: Path) -> None:
    options = ("--target", tiny, "--directory", str(tmp_path / "run"), "--steps", "2")
    output_of("train_and_merge.py", *options)
    assert (tmp_path / "run" / "merged" / "model.safetensors").is_file()


def test_remote_client_prints_every_answer(tiny_server: ServingProcess) -> None:
    options = ("--server", tiny_server.address, "--max-tokens", "6")
    printed = output_of("remote_client.py", "w1 w2", "w3 w4", *options)
    answers = printed.split("> ")[1:]
    assert [answer.splitlines()[0] for answer in answers] == ["w1 w2", "w3 w4"]
    assert all(answer.splitlines()[1] for answer in answers)


@pytest.mark.slow  # a real model, and a Ray of its own: a running one does not find the monitor
def test_jedi_members_names_a_member_that_exists() -> None:
    pytest.importorskip("jedi")
    printed = output_of("jedi_members.py")
    word = re.match(r"\w+", printed.partition("with it: ")[2])
    assert word is not None
    assert word[0] in (members(CODE) or ())


def test_scaling_experiment_predicts_every_point(tmp_path: Path) -> None:
    printed = output_of("scaling_experiment.py", "--out", str(tmp_path))
    assert printed.count("tokens/s") == 12
    assert (tmp_path / "results" / "report.html").is_file()


@pytest.mark.parametrize("program", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(program: Path) -> None:
    assert len(program.read_text(encoding="utf-8").splitlines()) < 60
