"""A call over HTTP may have a time limit, counted from its arrival."""

from typing import Any

import openai
import pytest

from runtime.http.http_call import HttpCall
from tests.support.rig import Rig
from tests.support.serving import Serving, slow_down
from tests.support.waiting import wait_until


def test_a_call_without_a_limit_has_no_deadline(serving: Serving) -> None:
    call = HttpCall(serving.gateway, "me")
    assert call.time_left_s(None) is None
    left_s = call.time_left_s(10.0)
    assert left_s is not None
    assert 0 < left_s <= 10.0


def test_a_time_limit_ends_an_answer_and_frees_what_it_held(
    rig: Rig, serving: Serving, client: openai.OpenAI
) -> None:
    slow_down(rig, 0.02)
    fields: dict[str, Any] = {"model": "toy", "prompt": "w1 w2 w3", "max_tokens": 300}
    fields["extra_body"] = {"return_token_ids": True, "timeout_s": 0.4}
    with pytest.raises(openai.InternalServerError) as late:
        client.completions.create(**fields)
    assert late.value.status_code == 504
    assert late.value.code == "deadline_exceeded"
    tokens: list[int] = []
    stream = client.completions.create(**fields, stream=True)

    def read() -> None:
        for chunk in stream:
            tokens.extend((chunk.choices[0].model_extra or {})["token_ids"])

    with pytest.raises(openai.APIError, match="s were over while the request was running"):
        read()
    assert 0 < len(tokens) < 300
    wait_until(lambda: serving.gateway.num_open == 0)
    fields["extra_body"] = {"timeout_s": 60}
    assert client.completions.create(**fields | {"max_tokens": 3}).choices[0].text
