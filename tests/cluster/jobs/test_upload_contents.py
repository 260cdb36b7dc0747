"""What cannot be uploaded is left behind by name, before Ray waits for it."""

import os
import socket
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import _get_excludes, get_uri_for_directory

from cluster.jobs.submit import runtime_environment
from cluster.jobs.upload_contents import left_behind
from cluster.options.cluster_options import SubmitOptions
from runtime.errors import ConfigError


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with one file of each kind that cannot be uploaded."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "data.txt").write_text("hello")
    (tmp_path / "linked.txt").symlink_to("in/data.txt")
    os.mkfifo(tmp_path / "in" / "deep" / "pipe [1]*")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "in" / "up").symlink_to("..")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / ".git").mkdir()
    os.mkfifo(tmp_path / ".git" / "pipe")
    return tmp_path


def test_what_cannot_be_read_to_its_end_is_named(directory: Path) -> None:
    assert {one.name: one.why for one in left_behind(directory)} == {
        "in/deep/pipe [1]*": "a named pipe",
        "in/up": "a link to a directory that holds it",
        "socket": "a socket",
        "gone": "a broken link",
        "zero": "a device",
    }


def test_a_pattern_leaves_one_file_behind_and_no_other(directory: Path) -> None:
    """Ray's own matcher is asked."""
    patterns = [one.pattern for one in left_behind(directory)]
    skips = _get_excludes(directory, patterns)
    for one in left_behind(directory):
        assert skips(directory / one.name)
    for name in ("in/data.txt", "linked.txt", "in/deep/pipe 1", "in/gone", "in/deep"):
        assert not skips(directory / name)


def test_ray_reads_the_directory_to_its_end(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.remove(directory / ".git" / "pipe")
    environment = runtime_environment(
        SubmitOptions(
            verb="generate",
            address="http://127.0.0.1:1",
            runtime_env=None,
            working_dir=directory,
            submission_id=None,
            detach=False,
        )
    )
    printed = capsys.readouterr().err
    assert "not uploaded: " in printed
    assert "in/deep/pipe [1]* (a named pipe)" in printed
    uri = get_uri_for_directory(  # it would wait for the pipe
        str(directory), include_gitignore=True, excludes=environment["excludes"]
    )
    assert uri.startswith("gcs://")


def test_a_name_that_is_not_utf_8_is_rejected(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/na\xefve")).touch()
    with pytest.raises(ConfigError, match=r"na.udcefve' cannot be uploaded, .*rename it"):
        left_behind(tmp_path)
