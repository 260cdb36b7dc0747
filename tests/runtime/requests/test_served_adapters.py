"""Names of adapters: versions that requests keep, and versions that no request needs."""

from pathlib import Path

import pytest

from runtime.errors import InvalidValue
from runtime.requests.served_adapters import (
    GRACE_S,
    ServedAdapter,
    ServedAdapters,
    checked_adapter_name,
)
from runtime.requests.served_model import UnknownModel
from tests.support.serving import toy_model


def adapter(name: str, digest: str) -> ServedAdapter:
    return ServedAdapter(name=name, version=f"{name}@{digest}", directory=Path("/a"), num_bytes=8)


def test_a_name_stands_for_its_newest_version() -> None:
    model = toy_model()
    model.adapters.put(adapter("b", "1"))
    model.adapters.put(adapter("a", "1"))
    assert [one.name for one in model.adapters.served] == ["a", "b"]
    assert model.version_of("a") == "a@1"
    model.adapters.put(adapter("a", "2"))
    assert model.version_of("a") == "a@2"
    assert model.version_of(None) == model.version_of("toy") == ""
    model.adapters.remove("a")
    with pytest.raises(UnknownModel, match="'a' is not served here: this server has 'toy', 'b'"):
        model.version_of("a")
    with pytest.raises(InvalidValue, match="there is no adapter 'a': this server has b"):
        model.adapters.remove("a")


def test_a_version_is_unused_a_while_after_its_last_request() -> None:
    adapters = ServedAdapters()
    for digest in "12":
        adapters.put(adapter("a", digest))
    assert adapters.unused({"a@1"}, 0.0) == []
    assert adapters.unused({"a@1"}, 100.0) == []
    assert adapters.unused({"a@2"}, 100.0 + GRACE_S) == []
    assert adapters.unused({"a@2"}, 101.0 + GRACE_S) == ["a@1"]
    assert adapters.dropped("a@1")
    assert adapters.unused(set(), 1000.0) == []


def test_a_version_that_is_served_again_is_not_dropped() -> None:
    adapters = ServedAdapters()
    adapters.put(adapter("a", "1"))
    adapters.remove("a")
    adapters.unused(set(), 0.0)
    assert adapters.unused(set(), 1000.0) == ["a@1"]
    adapters.put(adapter("a", "1"))
    assert not adapters.dropped("a@1")


@pytest.mark.parametrize("name", ["", "a b", "a@1", "-a", "a" * 65, "a/b", "toy"])
def test_names_that_no_adapter_can_have_are_rejected(name: str) -> None:
    with pytest.raises(InvalidValue, match="`adapter` has the name"):
        checked_adapter_name(name, "toy")
    assert checked_adapter_name("sst2.v1_b-3", "toy") == "sst2.v1_b-3"
