"""A client of the HTTP API for `paceline bench serve`, with the chunks of the gRPC client."""

import ssl
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx

from parallel.messages import RequestStats
from runtime.channels.addresses import is_loopback
from runtime.client import Chunk, Credentials, Prompt
from runtime.errors import ConfigError, PacelineError
from runtime.files.strict_json import parse_object

_REMEDY = "give an https address, or `plaintext_token` to permit that"


class HttpLoadClient:
    """Sends requests to one server and times nothing by itself."""

    def __init__(self, url: str, credentials: Credentials) -> None:
        """Prepare to connect; credentials are those of the gRPC client.

        Raises:
            ConfigError: the URL is not one of a server, or the token would leave this machine in
                plaintext.
        """
        found = urlsplit(url)
        if found.scheme not in ("http", "https") or not found.netloc:
            raise ConfigError(f"`http` is {url!r}: write a URL such as http://127.0.0.1:8000")
        if found.scheme == "http":
            credentials.check_target(found.netloc, _REMEDY)
        context = ssl.create_default_context(cafile=credentials.root_ca)
        if credentials.certificate is not None:
            context.load_cert_chain(credentials.certificate, credentials.private_key)
        self._client = httpx.AsyncClient(
            base_url=url,
            headers=dict(credentials.metadata()),
            verify=context,
            timeout=None,  # an answer may take as long as its queue
            trust_env=not is_loopback(found.netloc),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int,
        mode: str | None,
        ignore_eos: bool,
        patience_s: float,  # noqa: ARG002  (this client never waits for a server)
    ) -> AsyncIterator[Chunk]:
        """Yield the chunks of a greedy answer.

        Raises:
            PacelineError: the server rejected the request, failed, or was unreachable.
        """
        is_chat = not isinstance(prompt, str)
        body = {
            "messages" if is_chat else "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "mode": mode,
            "ignore_eos": ignore_eos,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
        path = "/v1/chat/completions" if is_chat else "/v1/completions"
        try:
            async with self._client.stream("POST", path, json=body) as response:
                if response.status_code != httpx.codes.OK:
                    raise PacelineError(f"HTTP {response.status_code}")
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        yield _chunk(parse_object(line.removeprefix("data: "), "an event"))
        except httpx.HTTPError as error:
            raise PacelineError(type(error).__name__) from error


def _chunk(event: dict[str, Any]) -> Chunk:
    if "error" in event:
        raise PacelineError(str(event["error"].get("code")))
    if not event["choices"]:
        saved = event["usage"]["speculation"]
        stats = RequestStats(
            rounds=saved["rounds"],
            drafted=saved["drafted_tokens"],
            accepted=saved["accepted_tokens"],
        )
        return Chunk(text="", stats=stats)
    (choice,) = event["choices"]
    text = choice.get("text") or choice.get("delta", {}).get("content") or ""
    return Chunk(
        text=text,
        token_ids=tuple(choice.get("token_ids", ())),
        finish_reason=choice["finish_reason"],
    )
