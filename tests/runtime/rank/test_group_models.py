"""A node finds a model where the driver has it, by its name, or reports that it has none."""

import socket
from pathlib import Path

import pytest

from runtime.drafters.lookup_drafting import Lookups
from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.errors import ConfigError
from runtime.models.checkpoint import resolve_model
from runtime.rank.group_models import NamedModel, on_this_node, require_on_this_node


def test_a_directory_that_is_there_is_taken(tmp_path: Path) -> None:
    assert on_this_node(str(tmp_path), [NamedModel(str(tmp_path), "other")]) == tmp_path


def test_a_directory_that_is_missing_is_looked_for_by_its_name(tmp_path: Path) -> None:
    known = [NamedModel("/gone/a", "./nowhere"), NamedModel("/gone/b", str(tmp_path))]
    assert on_this_node("/gone/b", known) == tmp_path


def test_a_shipped_drafter_is_found_beside_the_code() -> None:
    found = on_this_node("/upload/_ray_pkg_0123/runtime/drafters/smollm2-135m")
    assert (found / "config.json").is_file()


def test_a_store_that_is_missing_is_rejected_with_the_node(tmp_path: Path) -> None:
    assert require_on_this_node(str(tmp_path), "store of texts") == tmp_path
    with pytest.raises(ConfigError, match=f"node {socket.gethostname()} has no store of texts /go"):
        Lookups(LookupSettings.parse("store=/gone/store"))


def test_a_relative_directory_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    found = resolve_model("model")
    monkeypatch.chdir("/")
    assert on_this_node(str(found)) == tmp_path / "model"


def test_a_model_that_no_name_finds_is_rejected_with_the_node() -> None:
    with pytest.raises(ConfigError, match=f"node {socket.gethostname()} has no /gone/a"):
        on_this_node("/gone/a")
