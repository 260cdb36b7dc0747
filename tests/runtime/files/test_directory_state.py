"""A directory's state changes with its files."""

import os
from pathlib import Path

from runtime.files.directory_state import directory_state


def test_the_state_changes_with_every_change_of_a_file(tmp_path: Path) -> None:
    directory = tmp_path / "job"
    assert directory_state(directory) is None
    directory.mkdir()
    states = [directory_state(directory)]
    file = directory / "weights"
    file.write_bytes(b"1234")
    os.utime(file, ns=(0, 1))
    states.append(directory_state(directory))
    file.write_bytes(b"12345")
    os.utime(file, ns=(0, 1))
    states.append(directory_state(directory))
    os.utime(file, ns=(0, 2))
    states.append(directory_state(directory))
    (directory / "settings").touch()
    states.append(directory_state(directory))
    assert directory_state(directory) == states[-1]
    assert len(set(states)) == len(states)


def test_a_directory_that_was_replaced_by_one_with_the_same_files_has_another_state(
    tmp_path: Path,
) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    before = directory_state(tmp_path / "old")
    (tmp_path / "new").replace(tmp_path / "old")
    assert directory_state(tmp_path / "old") != before


def test_a_file_has_no_state_as_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert directory_state(tmp_path / "file") is None
