"""A stream of events that has nothing to send keeps its connection."""

import httpx
import openai
import pytest

from runtime.http import event_stream
from tests.support.rig import Rig
from tests.support.serving import Serving, slow_down


def test_a_silent_stream_has_comments_that_clients_skip(
    rig: Rig, serving: Serving, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "KEEP_ALIVE_S", 0.02)
    slow_down(rig, 0.2)
    body = {"model": "toy", "prompt": "w1 w2 w3", "max_tokens": 5, "stream": True, "temperature": 0}
    lines = httpx.post(f"{serving.url}/v1/completions", json=body).text.splitlines()
    assert lines.count(": waiting") > 1
    assert lines[-2] == "data: [DONE]"
    chunks = list(client.completions.create(**body))  # type: ignore[call-overload]  # as JSON
    assert chunks[-1].choices[0].finish_reason == "length"
