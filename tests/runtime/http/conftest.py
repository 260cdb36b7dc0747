"""A server with both wires over a toy engine, and the official client of OpenAI."""

from collections.abc import Iterator

import openai
import pytest

from tests.support.rig import Rig
from tests.support.serving import CHAT_TEMPLATE, Serving, toy_tokenizer


@pytest.fixture
def rig() -> Iterator[Rig]:
    """An engine with a drafter and a tokenizer."""
    made = Rig(tokenizer=toy_tokenizer())
    made.attach_model(noise=0.2)
    yield made
    made.close()
    assert not made.errors


@pytest.fixture
def serving(rig: Rig) -> Iterator[Serving]:
    made = Serving(rig, http={}, tokenizer=toy_tokenizer(chat_template=CHAT_TEMPLATE))
    yield made
    made.close()


@pytest.fixture
def client(serving: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none", max_retries=0) as made:
        yield made
