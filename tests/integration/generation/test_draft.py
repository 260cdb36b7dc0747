"""The draft verbs on a tiny target: a drafter is trained on its answers, resumed and evaluated."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli.main import app
from runtime.distillation.traffic import TrafficLog
from runtime.drafters.draft_checkpoint import check_drafter
from tests.support.rig import make_submit
from tests.support.tiny_checkpoint import save_tiny_checkpoint

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a target and prompts."""
    made: Path = tmp_path_factory.mktemp("draft")
    save_tiny_checkpoint(made / "target")
    lines = (json.dumps({"prompt": f"w{n} w{n + 1} w{n + 2}"}) for n in range(12))
    (made / "prompts.jsonl").write_text("\n".join(lines))
    return made


def draft(folder: Path, verb: str, *arguments: str, prompts: bool = True) -> dict[str, Any]:
    """Return what a verb prints as JSON."""
    command = ["draft", verb, *arguments, "--target", str(folder / "target"), "--json"]
    command += ["--prompts", str(folder / "prompts.jsonl")] if prompts else []
    command += ["--set", "models.threads=1"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def drafter(folder: Path) -> Path:
    """A drafter that `draft train` made from the target's answers."""
    out = folder / "drafter"
    settings = ("chat=false", "head_vocab=64", "batch_tokens=64", "max_tokens=12")
    sets = [part for setting in settings for part in ("--set", setting)]
    draft(folder, "train", "--out", str(out), "--steps", "3", "--layers", "1", *sets)
    return out


def test_a_drafter_learns_from_the_traffic_of_a_server(
    folder: Path, drafter: Path, tmp_path: Path
) -> None:
    lines = (folder / "drafter.work" / "corpus.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines] * 2  # it waits for 16
    log = TrafficLog(tmp_path / "traffic")
    for answer in answers:
        log.append(make_submit(prompt=tuple(answer["prompt_ids"])), answer["output_ids"])
    log.close()
    report = draft(
        folder, "follow", str(tmp_path / "traffic"), "--out", str(drafter), "--rounds", "1",
        "--window", "16", "--round-steps", "2", prompts=False,
    )  # fmt: skip
    assert report["round"] == 1
    assert report["answers"] == len(answers)
    check_drafter(drafter, folder / "target")


def test_a_trained_drafter_is_evaluated_beside_a_look_up(folder: Path, drafter: Path) -> None:
    out = drafter
    check_drafter(out, folder / "target")
    corpus = (folder / "drafter.work" / "corpus.jsonl").read_text().splitlines()
    assert len(corpus) == 12
    assert {len(json.loads(line)["output_ids"]) for line in corpus} == {12}
    report = draft(
        folder, "eval", "lookup", str(out), "--max-tokens", "8", "--draft-length", "2",
        "--num-prompts", "3", "--set", "input.chat=false",
    )  # fmt: skip
    assert [row["drafter"] for row in report["rows"]] == ["lookup", str(out)]
    for row in report["rows"]:
        figures = row["by_category"]["all"]
        assert figures["prompts"] == 3
        assert figures["identical"]
        assert figures["drafted"] >= figures["accepted"]
        assert len(figures["alpha_at"]) <= 2
