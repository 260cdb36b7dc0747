"""One process trains in a directory; others can read which one, and ask it to stop."""

import os
import threading
from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.training.job.job_lock import LOCK, JobLock, cancel, is_running


def test_a_directory_has_one_trainer_and_names_it(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "job"
    assert not is_running(directory)
    with JobLock(directory):
        assert is_running(directory)
        assert (directory / LOCK).read_text() == str(os.getpid())
        with pytest.raises(ConfigError, match=f"process {os.getpid()}"), JobLock(directory):
            pass
        assert is_running(directory)  # the second one took nothing away
    assert not is_running(directory)
    with JobLock(directory):
        assert is_running(directory)


def test_a_shorter_process_number_replaces_a_longer_one(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("12345678901234567890")
    with JobLock(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"`out` is .*file"), JobLock(tmp_path / "file" / "job"):
        pass


def test_a_cancelled_job_stops_and_the_asker_waits_for_it(tmp_path: Path) -> None:
    with JobLock(tmp_path) as job:
        assert not job.is_cancelled
        assert not cancel(tmp_path, timeout_s=0)  # asked, but it still runs
        assert job.is_cancelled
    assert cancel(tmp_path, timeout_s=30)


def test_an_old_request_to_stop_does_not_end_the_next_run(tmp_path: Path) -> None:
    with JobLock(tmp_path):
        cancel(tmp_path, timeout_s=0)
    with JobLock(tmp_path) as job:
        assert not job.is_cancelled
        job.cancel()
        assert job.is_cancelled


def test_the_asker_sees_the_end_of_a_run(tmp_path: Path) -> None:
    holding, asked = threading.Event(), threading.Event()

    def train() -> None:
        with JobLock(tmp_path) as job:
            holding.set()
            while not job.is_cancelled:
                asked.wait(0.01)

    thread = threading.Thread(target=train)
    thread.start()
    holding.wait(30)
    assert cancel(tmp_path, timeout_s=60)
    thread.join()
