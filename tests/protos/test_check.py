"""The check of the protos finds bad style, and what would break a released client."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICE = Path("protos/paceline/v1/service.proto")


def git(root: Path, *arguments: str) -> None:
    names = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    subprocess.run(["git", *names, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A repository whose protos were released as v1.0.0."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    (tmp_path / SERVICE.parent).mkdir(parents=True)
    for file in (ROOT / "buf.yaml", *ROOT.glob("protos/**/*.proto")):
        shutil.copy(file, tmp_path / file.relative_to(ROOT))
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "release")
    git(tmp_path, "tag", "v1.0.0")
    return tmp_path


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "protos.check", "--root", str(root)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def change(root: Path, old: str, new: str) -> None:
    text = (root / SERVICE).read_text()
    assert old in text
    (root / SERVICE).write_text(text.replace(old, new, 1))


def test_what_was_released_breaks_nothing(released: Path) -> None:
    done = check(released)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_new_field_breaks_nothing(released: Path) -> None:
    change(released, "message GetModelRequest {}", "message GetModelRequest { string name = 1; }")
    assert check(released).returncode == 0


def test_a_field_that_is_gone_breaks_clients(released: Path) -> None:
    change(released, "  bool ignore_eos = 12;\n", "")
    done = check(released)
    assert done.returncode == 1
    assert "ignore_eos" in done.stdout + done.stderr


def test_bad_style_is_found(released: Path) -> None:
    change(released, "bool ignore_eos = 12", "bool ignoreEos = 12")
    done = check(released)
    assert done.returncode == 1
    assert "ignore_eos" in done.stdout + done.stderr
