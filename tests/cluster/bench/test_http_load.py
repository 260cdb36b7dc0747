"""The load over HTTP measures what the load over gRPC does: tokens, drafts and errors."""

import asyncio
from collections.abc import Iterator

import pytest

from cluster.bench.http_load import HttpLoadClient
from runtime.client import AsyncClient, Chunk, Credentials
from runtime.errors import ConfigError, PacelineError
from tests.support.rig import Rig
from tests.support.serving import CHAT_TEMPLATE, Serving, toy_tokenizer


@pytest.fixture
def serving() -> Iterator[Serving]:
    rig = Rig()
    rig.attach_model(noise=0.2)
    tokenizer = toy_tokenizer(chat_template=CHAT_TEMPLATE)
    made = Serving(rig, http={}, tokenizer=tokenizer, tokens=("secret",))
    yield made
    made.close()
    rig.close()


async def answer(client: AsyncClient | HttpLoadClient, prompt: object) -> list[Chunk]:
    try:
        chunks = client.generate(
            prompt,  # type: ignore[arg-type]  # a text or messages
            max_tokens=16,
            mode="pearl",
            ignore_eos=True,
            patience_s=0,
        )
        return [chunk async for chunk in chunks]
    finally:
        await client.close()


@pytest.mark.parametrize("prompt", ["w1 w2 w3", [{"role": "user", "content": "w1 w2"}]])
def test_both_wires_give_the_same_tokens_and_drafts(serving: Serving, prompt: object) -> None:
    credentials = Credentials(token="secret")

    async def both() -> list[list[Chunk]]:
        return [
            await answer(HttpLoadClient(serving.url, credentials), prompt),
            await answer(AsyncClient(serving.address, credentials=credentials), prompt),
        ]

    found = asyncio.run(both())
    tokens = [[token for chunk in chunks for token in chunk.token_ids] for chunks in found]
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) == 16
    texts = ["".join(chunk.text for chunk in chunks) for chunks in found]
    assert texts[0] == texts[1]
    for chunks in found:
        stats = chunks[-1].stats
        assert stats is not None
        assert stats.accepted > 0
        assert [c.finish_reason for c in chunks if c.finish_reason] == ["length"]


def test_a_rejected_request_and_a_server_that_is_away_are_errors(serving: Serving) -> None:
    with pytest.raises(PacelineError, match="HTTP 401"):
        asyncio.run(answer(HttpLoadClient(serving.url, Credentials()), "w1"))
    serving.stop()
    with pytest.raises(PacelineError, match="ConnectError"):
        asyncio.run(answer(HttpLoadClient(serving.url, Credentials()), "w1"))


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://"])
def test_what_is_no_url_of_a_server_is_rejected(url: str) -> None:
    with pytest.raises(ConfigError, match=r"`http` is .* write a URL such as"):
        HttpLoadClient(url, Credentials())


def test_a_token_does_not_leave_this_machine_in_plaintext() -> None:
    with pytest.raises(ConfigError, match="give an https address"):
        HttpLoadClient("http://192.0.2.1:8000", Credentials(token="secret"))
