"""/events: the state and the rounds of the engines, for clients with a token."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai

from runtime.gateway.round_feed import MAX_WATCHERS
from tests.support.rig import Rig
from tests.support.serving import Serving
from tests.support.waiting import wait_until


def events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_a_client_sees_the_state_and_every_round_of_a_request(
    serving: Serving, client: openai.OpenAI
) -> None:
    answers: list[Any] = []

    def ask() -> None:
        fields: Any = {"model": "toy", "prompt": "w1 w2", "max_tokens": 60, "temperature": 0}
        answers.append(client.completions.create(**fields))

    rounds: list[dict[str, Any]] = []
    with httpx.stream("GET", f"{serving.url}/events", timeout=30) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = events(response)
        name, status = next(found)
        assert name == "status"
        assert (status["state"], status["model"]) == ("ready", "toy")
        asking = threading.Thread(target=ask)
        asking.start()
        for name, body in found:
            if name == "rounds":
                assert (body["replica"], body["dropped"]) == (0, 0)
                rounds += body["rounds"]
            elif rounds and body["finished"]:
                status = body
                break
        asking.join()
    (answer,) = answers
    speculation = answer.usage.model_extra["speculation"]
    assert len(rounds) == speculation["rounds"]
    assert sum(one["drafted"] for one in rounds) == speculation["drafted_tokens"] > 0
    assert all(one["forward"][0] <= one["forward"][1] for one in rounds)
    (replica,) = status["replicas"]
    assert (replica["state"], replica["tokens"], replica["drafters"]) == ("serving", 60, 1)
    assert replica["pages"] == 400


def test_a_client_that_leaves_no_longer_watches_and_too_many_are_rejected(
    rig: Rig, serving: Serving
) -> None:
    feed = serving.gateway.rounds
    with httpx.stream("GET", f"{serving.url}/events", timeout=30) as response:
        found = events(response)
        next(found)
        assert len(feed._watchers) == 1
        feed._watchers += [feed._watchers[0]] * (MAX_WATCHERS - 1)
        busy = httpx.get(f"{serving.url}/events", timeout=30)
        assert busy.status_code == 429
        assert "clients watch this server" in busy.json()["error"]["message"]
        del feed._watchers[1:]
    wait_until(lambda: not feed._watchers)
    assert httpx.head(f"{serving.url}/events").status_code == 200
    assert not feed._watchers
    assert not rig.errors


def test_the_stream_ends_with_the_server(serving: Serving) -> None:
    with httpx.stream("GET", f"{serving.url}/events", timeout=30) as response:
        found = events(response)
        next(found)
        stopping = threading.Thread(target=serving.stop)
        stopping.start()
        assert {name for name, _ in found} <= {"status", "rounds"}
    stopping.join()


def test_the_stream_needs_the_token_of_the_api(rig: Rig) -> None:
    serving = Serving(rig, http={}, tokens=("secret",))
    try:
        assert httpx.get(f"{serving.url}/events").status_code == 401
        headers = {"authorization": "Bearer secret"}
        url = f"{serving.url}/events"
        with httpx.stream("GET", url, headers=headers, timeout=30) as response:
            assert next(events(response))[0] == "status"
    finally:
        serving.close()
