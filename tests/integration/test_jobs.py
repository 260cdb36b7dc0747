"""Jobs on a head whose Python has no Paceline: uploaded, followed, mirrored, stopped."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.integration.raylets import ROOT, Raylets
from tests.tiny_checkpoint import save_tiny_checkpoint

LONG = ("generate", "--virtual", "target=50ms,draft=10ms,alpha=0.8", "--prompt", "1 2 3")
CLEAN_S = 60


@pytest.fixture(scope="module")
def head() -> Iterator[Raylets]:
    with Raylets(dashboard=True) as nodes:
        nodes.add_node(cpus=2)
        yield nodes


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_checkpoint(tmp_path_factory.mktemp("tiny")))


def generate(tiny: str) -> list[str]:
    command = ["generate", "--target", tiny, "--drafter", tiny, "--prompt", "w1 w2 w3", "--json"]
    return [*command, "--max-tokens", "24", "--draft-wait", "10", "--threads", "1", "--ignore-eos"]


def rows_of(output: str) -> list[dict[str, object]]:
    """Return the JSON rows among a job's log lines."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def submit(head: Raylets, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    return head.run("submit", *arguments, "--address", head.dashboard_url, code=code)


def test_the_cluster_has_no_paceline_of_its_own(head: Raylets) -> None:
    arguments = ("job", "submit", "--address", head.dashboard_url, "--", "python", "-c")
    finished = head.run(*arguments, "import cluster", module="ray.scripts.scripts", code=1)
    assert "No module named 'cluster'" in finished.stdout


def test_ray_job_submit_runs_an_upload(head: Raylets, tiny: str) -> None:
    arguments = ("job", "submit", "--address", head.dashboard_url, "--working-dir", ".", "--")
    command = ("python", "-m", "cluster.cli", *generate(tiny), "--tp", "2", "--mode", "pearl")
    finished = head.run(*arguments, *command, module="ray.scripts.scripts")
    (row,) = rows_of(finished.stdout)
    stats = row["stats"]
    assert isinstance(stats, dict)
    assert stats["accepted"] > 0
    (alone,) = rows_of(
        head.run(*generate(tiny), "--ray", "local", "--mode", "autoregressive").stdout
    )
    assert row["token_ids"] == alone["token_ids"]


def test_submit_mirrors_output_and_exit_code(head: Raylets, tiny: str) -> None:
    finished = submit(head, *generate(tiny), "--mode", "speculative")
    assert len(rows_of(finished.stdout)) == 1
    refused = submit(head, *generate(tiny), "--tp", "0", code=2)
    assert "--tp is 0" in refused.stdout


def test_an_interrupted_submit_leaves_nothing_behind(head: Raylets) -> None:
    command = [head.python, "-m", "cluster.cli", "submit", *LONG, "--max-tokens", "100000"]
    with subprocess.Popen(
        [*command, "--address", head.dashboard_url],
        env=head.environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as submitting:
        assert submitting.stdout is not None
        for line in iter(lambda: submitting.stdout.read(20), ""):  # type: ignore[union-attr]
            if ")" in line:  # tokens arrive while the job runs
                break
        assert working(head)
        submitting.send_signal(signal.SIGINT)
        assert submitting.wait(timeout=120) == 130
    deadline_s = time.monotonic() + CLEAN_S
    while working(head):
        assert time.monotonic() < deadline_s, working(head)
        time.sleep(0.5)
    assert actors_alive(head) == []


def working(head: Raylets) -> list[str]:
    """Return the processes of drivers and actors, by what they run."""
    found = []
    for process in head.processes():
        try:
            line = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if "ShardActor" in line or "cluster.cli" in line:
            found.append(line)
    return found


def actors_alive(head: Raylets) -> list[str]:
    """Return the classes of the cluster's living actors."""
    arguments = ("list", "actors", "--address", head.dashboard_url, "--format", "json")
    listed = json.loads(head.run(*arguments, module="ray.scripts.scripts").stdout)
    return [actor["class_name"] for actor in listed if actor["state"] == "ALIVE"]
