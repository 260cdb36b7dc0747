"""Both streams of a job come out of its one log as they went in."""

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.jobs.job_output import MARK, JobOutput

ROOT = Path(__file__).resolve().parents[2]


def parted(log: str, cuts: list[int]) -> tuple[str, str]:
    output, aside = io.StringIO(), io.StringIO()
    job = JobOutput(output, aside)
    for start, end in zip([0, *cuts], [*cuts, len(log)], strict=True):
        job.write(log[start:end])
    job.close()
    return output.getvalue(), aside.getvalue()


@pytest.mark.parametrize("seed", range(20))
def test_a_log_may_come_in_parts_of_any_length(seed: int) -> None:
    chance = random.Random(seed)
    output, aside, log = "", "Ray says\n", f"Ray says\n{MARK}started\n"
    aside += "started\n"
    for number in range(12):
        if chance.random() < 0.5:
            text = chance.choice(["a", "{}\n", "", MARK[: chance.randrange(len(MARK))] + "x", "\n"])
            output += text
            log += text
        else:
            line = f"step {number}" * chance.randrange(3) + "\n"
            aside += line
            log += MARK + line
    cuts = sorted(chance.choices(range(len(log) + 1), k=9))
    assert parted(log, cuts) == (output, aside)
    assert parted(log, list(range(1, len(log)))) == (output, aside)


def test_a_job_that_never_began_has_no_output() -> None:
    assert parted("Runtime env setup failed", []) == ("", "Runtime env setup failed")


def test_an_end_that_looks_like_a_mark_is_output() -> None:
    assert parted(f"{MARK}started\nabc{MARK[:3]}", []) == (f"abc{MARK[:3]}", "started\n")


def test_a_verb_keeps_its_streams_and_its_exit_code() -> None:
    command = [sys.executable, "-m", "cluster.jobs.submitted"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def run(*verb: str) -> tuple[int, str, str]:
        log = subprocess.run(
            [*command, *verb],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return (log.returncode, *parted(log.stdout, []))

    code, output, aside = run("--version")
    assert code == 0
    assert output.startswith("paceline")
    assert aside == "started\n"
    code, output, aside = run("generate", "--prompt", "x", "--target", "/nowhere")
    assert (code, output) == (2, "")
    assert "/nowhere" in aside
