"""Adapters are read once, given to all engines before a request can name them, and taken back."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.deploy.fleet import Fleet
from cluster.deploy.target_plan import PlannedModel
from cluster.serve.adapter_fleet import AdapterFleet, parse_adapters
from parallel.model.low_rank import Adapter
from runtime.errors import ConfigError, InvalidValue, PeerLost
from runtime.models.model_facts import read_facts
from runtime.models.tokenizer import Tokenizer
from runtime.requests.served_adapters import ServedAdapters
from tests.support.peft_adapters import save_peft_adapter
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.tiny_transformer import tiny_model


class Engines:
    """Holds adapters in place of a fleet."""

    def __init__(self, adapters: ServedAdapters) -> None:
        self.held: list[str] = []
        self.is_lost = False
        self._adapters = adapters

    def add_adapter(self, adapter: Adapter) -> None:
        if self.is_lost:
            raise PeerLost("target rank 0 died")
        served = [one.version for one in self._adapters.served]
        assert adapter.name not in served, "a request could name it too early"
        self.held.append(adapter.name)

    def remove_adapter(self, name: str) -> None:
        self.held.remove(name)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("adapters")
    save_tiny_checkpoint(made / "tiny")
    for number in range(2):
        directory = made / f"a{number}"
        save_peft_adapter(tiny_model().reference, directory, seed=number)
        file = directory / "adapter_config.json"
        table = json.loads(file.read_text()) | {"base_model_name_or_path": "tiny"}
        file.write_text(json.dumps(table))
    return made


def make(root: Path) -> tuple[AdapterFleet, Engines, ServedAdapters]:
    facts = read_facts(root / "tiny")
    target = PlannedModel(
        name=str(root / "tiny"),
        facts=facts,
        tokenizer=Tokenizer.load(facts.directory),
        virtual=None,
        max_positions=facts.config.max_positions,
        vocab_size=facts.config.vocab_size,
    )
    adapters = ServedAdapters()
    engines = Engines(adapters)
    return AdapterFleet(cast("Fleet", cast("Any", engines)), target, adapters), engines, adapters


def test_engines_hold_an_adapter_first_and_longest(root: Path) -> None:
    fleet, engines, adapters = make(root)
    first = fleet.add("a", str(root / "a0"))
    assert fleet.add("a", str(root / "a0")) == first  # the same numbers
    second = fleet.add("a", str(root / "a1"))
    assert engines.held == [first.version, second.version]
    assert adapters.find("a") == second
    assert second.num_bytes > 0
    fleet.drop([first.version, second.version])
    assert engines.held == [second.version]
    fleet.remove("a")
    fleet.drop([second.version])
    assert engines.held == []


def test_what_was_served_stays_when_an_adapter_cannot_be_added(root: Path) -> None:
    fleet, engines, adapters = make(root)
    first = fleet.add("a", str(root / "a0"))
    with pytest.raises(ConfigError, match="nowhere does not exist on the server"):
        fleet.add("a", str(root / "nowhere"))
    with pytest.raises(ConfigError, match="has no adapter_config"):
        fleet.add("a", str(root / "tiny"))
    with pytest.raises(InvalidValue, match="has the name 'a b'"):
        fleet.add("a b", str(root / "a0"))
    engines.is_lost = True
    with pytest.raises(PeerLost):
        fleet.add("a", str(root / "a1"))
    assert adapters.served == [first]


def test_an_option_names_an_adapter_and_its_directory() -> None:
    assert parse_adapters(["a=b=c", "b=d"]) == [("a", "b=c"), ("b", "d")]
    for text in ("a", "a=", "=b", ""):
        with pytest.raises(InvalidValue, match="write NAME=DIR"):
            parse_adapters([text])
    with pytest.raises(InvalidValue, match="names 'a' twice"):
        parse_adapters(["a=b", "b=b", "a=c"])
