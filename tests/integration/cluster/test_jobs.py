"""Jobs on a cluster of three raylets whose Python has no Paceline: uploaded, mirrored, stopped."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runtime.models.tokenizer import Tokenizer
from tests.support.integration.raylets import ROOT, Raylets
from tests.support.models import check_identity
from tests.support.tiny_checkpoint import save_tiny_checkpoint

pytestmark = pytest.mark.slow

PROMPT = "w1 w2 w3 w4 w5"
LONG = ("generate", "--set", "models.virtual=target=50ms,draft=10ms,alpha=0.8", "--prompt", "1 2 3")
CLEAN_S = 60


@pytest.fixture(scope="module")
def nodes() -> Iterator[Raylets]:
    with Raylets(dashboard=True) as raylets:
        raylets.add_nodes(3)
        job = ("bench", "link", "--count", "2")  # submitting waits until the cluster takes jobs
        raylets.run("submit", *job, "--address", raylets.dashboard_url)
        yield raylets


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def generate(tiny: Path) -> list[str]:
    command = ["generate", "--target", str(tiny), "--drafter", str(tiny), "--prompt", PROMPT]
    command += ["--json", "--max-tokens", "32", "--mode", "pearl"]
    settings = ("decode.ignore_eos=true", "decode.draft_length=4", "models.draft_wait_s=10")
    return [*command, *(f"--set={setting}" for setting in (*settings, "models.threads=1"))]


def test_ray_job_submit_spreads_an_upload_over_nodes(nodes: Raylets, tiny: Path) -> None:
    """Two target ranks and the drafter on a node each, gloo and gRPC between them."""
    bare = subprocess.run(
        [nodes.python, "-c", "import cluster"], env=nodes.environment, cwd="/", check=False
    )
    assert bare.returncode == 1, "the nodes' Python must not find this checkout by itself"
    arguments = ("job", "submit", "--address", nodes.dashboard_url, "--working-dir", ".", "--")
    place = (
        "--tp",
        "2",
        "--set",
        "models.place.target=spread",
        "--set",
        "models.place.drafter=far",
        "--set",
        "models.place.cpus=1",
    )
    command = ("python", "-m", "cluster.cli", *generate(tiny), *place)
    finished = nodes.run(*arguments, *command, module="ray.scripts.scripts")
    lines = finished.stdout.splitlines()
    (row,) = [json.loads(line) for line in lines if line.startswith("{")]
    prompt = tuple(Tokenizer.load(tiny).encode(PROMPT))
    assert check_identity(tiny, prompt, tuple(row["token_ids"])) is None
    assert row["stats"]["drafted"] > 0
    assert row["stats"]["accepted"] > 0
    (where,) = [line for line in lines if line.startswith("target on ")]
    target, _, drafter = where.removeprefix("target on ").partition(", drafter on ")
    assert len({*target.split(" + "), drafter}) == 3


def test_a_submitted_verbs_output_comes_alone(nodes: Raylets, tiny: Path, tmp_path: Path) -> None:
    """From a directory with a space in its name; all else is on standard error."""
    place = tmp_path / "my files"
    place.mkdir()
    where = ("--address", nodes.dashboard_url, "--working-dir", str(place))
    finished = nodes.run("submit", *generate(tiny), *where)
    (row,) = [json.loads(line) for line in finished.stdout.splitlines()]
    prompt = tuple(Tokenizer.load(tiny).encode(PROMPT))
    assert check_identity(tiny, prompt, tuple(row["token_ids"])) is None
    assert "started" in finished.stderr.splitlines()


def test_submit_mirrors_the_rejection_of_what_does_not_fit(nodes: Raylets, tiny: Path) -> None:
    options = (
        "--tp",
        "3",
        "--set",
        "models.place.target=pack",
        "--set",
        "models.place.cpus=1",
        "--set",
        "models.place.wait_s=0",
    )
    address = ("--address", nodes.dashboard_url)
    refused = nodes.run("submit", *generate(tiny), *options, *address, code=2)
    assert "target: 3 rank(s) of 1 CPU do not fit on one node" in refused.stderr
    assert refused.stderr.count("1 of 1 CPU") == 3


def test_an_interrupted_submit_leaves_nothing_behind(nodes: Raylets) -> None:
    command = [nodes.python, "-m", "cluster.cli", "submit", *LONG, "--max-tokens", "100000"]
    with subprocess.Popen(
        [*command, "--address", nodes.dashboard_url],
        env=nodes.environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as submitting:
        assert submitting.stdout is not None
        printed = ""
        while "(" not in printed:  # tokens arrive while the job runs
            printed = submitting.stdout.read(20)
            assert printed, "the job ended by itself"
        deadline_s = time.monotonic() + CLEAN_S
        while not any("ShardActor" in line for line in working(nodes)):
            assert time.monotonic() < deadline_s, "no rank ever ran"
            time.sleep(0.2)
        submitting.send_signal(signal.SIGINT)
        submitting.stdout.read()
        assert submitting.wait(timeout=120) == 130
    deadline_s = time.monotonic() + CLEAN_S
    while working(nodes):
        assert time.monotonic() < deadline_s, working(nodes)
        time.sleep(0.5)
    assert actors_alive(nodes) == []


def working(nodes: Raylets) -> list[str]:
    """Return the processes of drivers and of their actors, by what they run."""
    found = []
    for process in nodes.processes():
        try:
            line = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if "ShardActor" in line or "cluster.cli" in line:
            found.append(line)
    return found


def actors_alive(nodes: Raylets) -> list[str]:
    """Return the classes of the cluster's living actors."""
    arguments = ("list", "actors", "--address", nodes.dashboard_url, "--format", "json")
    listed = json.loads(nodes.run(*arguments, module="ray.scripts.scripts").stdout)
    return [actor["class_name"] for actor in listed if actor["state"] == "ALIVE"]
