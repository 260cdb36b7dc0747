"""Constrained requests over both wires, on a toy engine whose only constraint is an automaton."""

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from parallel.decoding.types import SamplingParams
from parallel.messages import Submit
from runtime.client import Client, ServiceError
from tests.support.rig import Rig, make_submit
from tests.support.serving import Serving
from tests.support.toy_constraint import END, SPEC, ToyConstraints, constrained_tokens

PROMPT = [1, 2, 3]


@pytest.fixture
def serving() -> Iterator[Serving]:
    rig = Rig(constraints=ToyConstraints(), eos_ids=frozenset((END,)))
    rig.attach_model()
    found = Serving(rig, http={})
    yield found
    found.close()
    rig.close()


def submit(max_tokens: int) -> Submit:
    return replace(
        make_submit(prompt=PROMPT, sampling=SamplingParams(constraint=SPEC)), max_tokens=max_tokens
    )


def test_grpc_answers_satisfy_their_constraint_and_say_so(serving: Serving) -> None:
    with Client(serving.address) as client:
        for most in (3, 60):
            chunks = list(client.generate(PROMPT, max_tokens=most, regex=SPEC.text))
            expected, is_complete = constrained_tokens(submit(most))
            assert [token for chunk in chunks for token in chunk.token_ids] == expected
            assert chunks[-1].complete == is_complete
        plain = list(client.generate(PROMPT, max_tokens=3))
        assert plain[-1].complete is None


def test_http_answers_satisfy_their_constraint_and_say_so(serving: Serving) -> None:
    body = {
        "prompt": PROMPT,
        "temperature": 0,
        "guided_regex": SPEC.text,
        "return_token_ids": True,
        "max_tokens": 3,
    }
    url = f"{serving.url}/v1/completions"
    (choice,) = httpx.post(url, json=body).json()["choices"]
    expected, is_complete = constrained_tokens(submit(3))
    assert choice["token_ids"] == expected
    assert (choice["finish_reason"], choice["complete"]) == ("length", is_complete)
    with httpx.stream("POST", url, json=body | {"stream": True}) as response:
        events = [line for line in response.iter_lines() if line.startswith("data: {")]
    assert '"complete":false' in events[-1].replace(" ", "")
    (plain,) = httpx.post(url, json={"prompt": PROMPT, "max_tokens": 3}).json()["choices"]
    assert "complete" not in plain


def test_a_constraint_that_cannot_be_compiled_is_the_clients_fault(serving: Serving) -> None:
    answer = httpx.post(
        f"{serving.url}/v1/completions", json={"prompt": PROMPT, "guided_regex": "(a"}
    )
    assert answer.status_code == 400
    assert "`regex` cannot be used" in answer.json()["error"]["message"]
    with Client(serving.address) as client, pytest.raises(ServiceError) as error:
        list(client.generate(PROMPT, regex="(a"))
    assert error.value.code == "INVALID_ARGUMENT"
