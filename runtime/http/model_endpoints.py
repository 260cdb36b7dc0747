"""The served model, its tokens, and what it does not offer: /v1/models, /tokenize, /detokenize."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.checking.chat_messages import EXTRA_KEYS
from runtime.checking.prompt_value import token_ids
from runtime.checking.values import flag, items, text
from runtime.errors import InvalidValue
from runtime.http.http_errors import HttpRejection
from runtime.http.request_body import read_json
from runtime.http.request_fields import RequestFields
from runtime.requests.prompt_reader import PromptReader
from runtime.requests.prompts import ChatPrompt, prompt_ids
from runtime.requests.served_adapters import ServedAdapter
from runtime.requests.served_model import ServedModel


class ModelEndpoints:
    """Describes the model and its tokens."""

    def __init__(self, model: ServedModel, reader: PromptReader, *, max_body_bytes: int) -> None:
        self._model = model
        self._reader = reader
        self._max_body_bytes = max_body_bytes
        self._started = int(time.time())

    async def list_models(self, _: Request) -> Response:
        """Answer /v1/models."""
        cards = [self._card(), *map(self._adapter_card, self._model.adapters.served)]
        return JSONResponse({"object": "list", "data": cards})

    async def get_model(self, request: Request) -> Response:
        """Answer /v1/models/NAME."""
        name = request.path_params["name"]
        self._model.version_of(name)
        adapter = self._model.adapters.find(name)
        return JSONResponse(self._card() if adapter is None else self._adapter_card(adapter))

    async def version(self, _: Request) -> Response:
        """Answer /version."""
        return JSONResponse({"version": self._model.version})

    async def tokenize(self, request: Request) -> Response:
        """Turn a text or a conversation into tokens."""
        return await self._read(request, self._tokenized)

    async def detokenize(self, request: Request) -> Response:
        """Turn tokens into text."""
        return await self._read(request, self._detokenized)

    async def embeddings(self, _: Request) -> Response:
        """Reject /v1/embeddings."""
        raise HttpRejection(
            400,
            f"{self._model.name} generates text: this server has no embeddings, send the request "
            "to a server with an embedding model",
            code="unsupported_endpoint",
        )

    async def _read(
        self, request: Request, answer: Callable[[RequestFields], dict[str, Any]]
    ) -> Response:
        body = await read_json(request, self._max_body_bytes)

        def work() -> dict[str, Any]:
            fields = RequestFields(body.parse())
            model = fields.take("model")
            self._model.version_of(None if model is None else text(model, "`model`"))
            return answer(fields)

        return JSONResponse(await self._reader.run(len(body.data), work))

    def _tokenized(self, fields: RequestFields) -> dict[str, Any]:
        prompt, messages = fields.take("prompt"), fields.take("messages")
        adds_special = fields.take("add_special_tokens")
        has_texts = fields.flag("return_token_strs")
        fields.reject_rest()
        if (prompt is None) == (messages is None):
            raise InvalidValue("give one of `prompt` and `messages`")
        model = self._model
        if prompt is not None:
            whole = adds_special is None or flag(adds_special, "`add_special_tokens`")
            given = text(prompt, "`prompt`")
            model.limits.check_text("prompt", given)
            ids = tuple(model.tokenizer.encode(given, whole=whole))
        else:
            if adds_special is not None:
                raise InvalidValue(
                    "`add_special_tokens` is for `prompt`: a chat template adds them"
                )
            turns = items(messages, "messages", "messages")
            ids = prompt_ids(ChatPrompt(turns, "messages", EXTRA_KEYS), model)
        texts = [model.tokenizer.token_bytes(one).decode(errors="replace") for one in ids]
        return {
            "count": len(ids),
            "max_model_len": model.max_positions,
            "tokens": ids,
            "token_strs": texts if has_texts else None,
        }

    def _detokenized(self, fields: RequestFields) -> dict[str, Any]:
        given = fields.take("tokens")
        fields.reject_rest()
        if given is None:
            raise InvalidValue("`tokens` is missing: give a list of token ids")
        model, tokens = self._model, items(given, "`tokens`", "token ids")
        model.limits.check_ids("`tokens`", len(tokens))
        ids = token_ids(tokens, "`tokens`", vocab_size=model.vocab_size, may_be_empty=True)
        return {"prompt": model.tokenizer.decode(ids)}

    def _card(self) -> Mapping[str, Any]:
        return {
            "id": self._model.name,
            "object": "model",
            "created": self._started,
            "owned_by": "paceline",
            "max_model_len": self._model.max_positions,
        }

    def _adapter_card(self, adapter: ServedAdapter) -> Mapping[str, Any]:
        """Describe an adapter as vLLM does: `parent` is its model."""
        return {
            **self._card(),
            "id": adapter.name,
            "root": str(adapter.directory),
            "parent": self._model.name,
        }
