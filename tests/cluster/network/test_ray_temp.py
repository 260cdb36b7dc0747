"""A local Ray's session has a place whose sockets' paths are short enough."""

from pathlib import Path

import pytest

from cluster.network.ray_temp import local_temp_dir
from runtime.errors import ConfigError


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)


def test_ray_chooses_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_temp_dir() is None
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert local_temp_dir() is None


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_long_directory_is_replaced_by_a_short_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("d" * 100)
    long.mkdir()
    monkeypatch.setenv(name, str(long))
    assert local_temp_dir() == "/tmp/ray"


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_directory_that_cannot_be_written_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "/proc/none")
    with pytest.raises(ConfigError, match=f"{name} is /proc/none: it cannot be written .*RAY_TMP"):
        local_temp_dir()
