"""Adapters over both wires: named, pinned to a version, added and removed while serving."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from runtime.client import Client, ServiceError
from runtime.errors import ConfigError
from runtime.requests.served_adapters import ServedAdapter, ServedAdapters
from tests.support.rig import Rig
from tests.support.serving import Serving, slow_down
from tests.support.waiting import wait_until

PROMPT = (1, 2, 3)


class Control:
    """Adapters without numbers, which the toy engine accepts."""

    def __init__(self, engine: set[str]) -> None:
        self.serving: Serving | None = None
        self._engine = engine

    def add(self, name: str, directory: str) -> ServedAdapter:
        if name == "bad":
            raise ConfigError("the adapter is bad")
        version = f"{name}@{Path(directory).name}"
        self._engine.add(version)
        added = ServedAdapter(name=name, version=version, directory=Path(directory), num_bytes=40)
        self._adapters.put(added)
        return added

    def remove(self, name: str) -> ServedAdapter:
        return self._adapters.remove(name)

    @property
    def _adapters(self) -> ServedAdapters:
        assert self.serving is not None
        return self.serving.server.admission.model.adapters


@pytest.fixture
def engine() -> set[str]:
    return set()


@pytest.fixture
def rig(engine: set[str]) -> Iterator[Rig]:
    made = Rig(adapters=engine)
    made.attach_model()
    yield made
    made.close()


@pytest.fixture
def serving(rig: Rig, engine: set[str]) -> Iterator[Serving]:
    control = Control(engine)
    made = Serving(rig, adapters=control, http={})
    control.serving = made
    yield made
    made.close()


@pytest.fixture
def client(serving: Serving) -> Iterator[Client]:
    with Client(serving.address) as made:
        yield made


def tokens(client: Client, model: str | None = None) -> list[int]:
    chunks = client.generate(PROMPT, max_tokens=8, model=model)
    return [token for chunk in chunks for token in chunk.token_ids]


def test_adapters_are_added_named_counted_and_removed(client: Client) -> None:
    assert client.list_adapters() == []
    added = client.add_adapter("sst2", "/runs/v1")
    assert (added.name, added.version, added.num_bytes) == ("sst2", "sst2@v1", 40)
    assert len(tokens(client, "sst2")) == len(tokens(client, "toy")) == len(tokens(client)) == 8
    (listed,) = client.list_adapters()
    assert (listed.finished, listed.tokens, listed.open_requests) == (1, 8, 0)
    assert listed.drafted >= listed.accepted > 0
    assert client.remove_adapter("sst2").name == "sst2"
    with pytest.raises(ServiceError, match="'sst2' is not served here: this server has 'toy'"):
        tokens(client, "sst2")


def test_a_bad_adapter_is_rejected_and_the_others_stay(client: Client) -> None:
    client.add_adapter("good", "/runs/v1")
    with pytest.raises(ServiceError, match=r"INVALID_ARGUMENT \(the adapter is bad"):
        client.add_adapter("bad", "/runs/v1")
    with pytest.raises(ServiceError, match="there is no adapter 'gone': this server has good"):
        client.remove_adapter("gone")
    assert [one.name for one in client.list_adapters()] == ["good"]


def test_a_server_without_control_says_so(rig: Rig) -> None:
    serving = Serving(rig)
    with Client(serving.address) as client, pytest.raises(ServiceError, match="cannot change"):
        client.add_adapter("a", "/runs/v1")
    serving.close()


def test_a_request_keeps_its_version_and_resumes_with_it(
    rig: Rig, serving: Serving, client: Client
) -> None:
    client.add_adapter("sst2", "/runs/v1")
    slow_down(rig, 0.02)
    chunks = client.generate(PROMPT, max_tokens=60, model="sst2", request_id="mine")
    first = list(next(chunks).token_ids)
    client.add_adapter("sst2", "/runs/v2")
    (status,) = client.list_adapters()
    assert (status.version, status.open_requests) == ("sst2@v2", 1)
    found: list[int] = []
    again = threading.Thread(target=lambda: found.extend(whole(serving, "mine")))
    again.start()
    first += [token for chunk in chunks for token in chunk.token_ids]
    again.join(30.0)
    assert found == first
    assert serving.gateway.adapters_in_use == set()
    with Client(serving.address) as other, pytest.raises(ServiceError, match="another request"):
        list(other.generate(PROMPT, max_tokens=60, model="toy", request_id="mine"))


def whole(serving: Serving, name: str) -> list[int]:
    with Client(serving.address) as client:
        chunks = client.generate(PROMPT, max_tokens=60, model="sst2", request_id=name)
        return [token for chunk in chunks for token in chunk.token_ids]


def test_http_lists_adapters_and_takes_their_names(serving: Serving, client: Client) -> None:
    client.add_adapter("sst2", "/runs/v1")
    with httpx.Client(base_url=serving.url, timeout=30.0) as http:
        cards = http.get("/v1/models").json()["data"]
        assert [card["id"] for card in cards] == ["toy", "sst2"]
        assert http.get("/v1/models/sst2").json()["parent"] == "toy"
        body = {"model": "sst2", "prompt": list(PROMPT), "max_tokens": 8, "temperature": 0}
        answer = http.post("/v1/completions", json=body).json()
        assert answer["model"] == "sst2"
        assert answer["usage"]["completion_tokens"] == 8
        wait_until(lambda: client.list_adapters()[0].finished == 1)
        unknown = http.post("/v1/completions", json=body | {"model": "other"})
        assert unknown.status_code == 404
        assert unknown.json()["error"]["code"] == "model_not_found"
        assert "this server has 'toy', 'sst2'" in unknown.json()["error"]["message"]
        tokenized = http.post("/tokenize", json={"model": "sst2", "prompt": "w1"})
        assert tokenized.status_code == 200


def test_metrics_count_acceptance_for_each_adapter(serving: Serving, client: Client) -> None:
    client.add_adapter("sst2", "/runs/v1")
    tokens(client, "sst2")
    read = serving.gateway.metrics.registry.get_sample_value
    labels = {"model_name": "", "adapter": "sst2"}
    assert read("paceline_adapter_generation_tokens_total", labels) == 8
    accepted = read("paceline_adapter_spec_decode_num_accepted_tokens_total", labels)
    drafted = read("paceline_adapter_spec_decode_num_draft_tokens_total", labels)
    assert accepted is not None
    assert drafted is not None
    assert drafted >= accepted > 0
