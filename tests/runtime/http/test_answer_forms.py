"""The chunks of a stream join to the whole answer, and a resumed one to its rest."""

import asyncio
from typing import Any

import pytest

from parallel.decoding.types import DecodeMode, SamplingParams, TokenLogprobs, VerifierKind
from parallel.messages import Finished, RequestStats, Submit
from runtime.gateway.journal import Journal, OpenRequest
from runtime.http.answer_forms import AnswerForm
from runtime.http.openai_requests import OpenAiRequest, read_chat, read_completion
from runtime.requests.answer_events import SampleEnd, answer_events
from tests.support.serving import toy_model

TOKENS = (11, 12, 3)
STATS = RequestStats(rounds=3, drafted=4, accepted=2, cached_prompt=1)


def opened(reason: str = "stop") -> OpenRequest:
    submit = Submit(
        request=0,
        prompt_ids=(1, 2),
        sampling=SamplingParams(),
        mode=DecodeMode.PEARL,
        verifier=VerifierKind.MATCH,
        max_tokens=8,
        num_logprobs=0,
    )
    logprobs = [TokenLogprobs(logprob=-float(token)) for token in TOKENS]
    journal = Journal(submit=submit, token_ids=list(TOKENS), logprobs=logprobs)
    journal.end(Finished(request=0, reason=reason, stats=STATS))
    return OpenRequest(client="me", name="mine", samples=[journal])


def asked(*, chat: bool, **fields: Any) -> OpenAiRequest:
    fields |= {"return_token_ids": True, "request_id": "mine"}
    if chat:
        turns = [{"role": "user", "content": "w1"}]
        return read_chat({"messages": turns, "logprobs": True} | fields)
    return read_completion({"prompt": "w1", "logprobs": 0} | fields)


def whole(request: OpenAiRequest) -> dict[str, Any]:
    form = AnswerForm(request, toy_model(), opened(), (0,))

    async def collect() -> None:
        async for event in answer_events(opened(), toy_model().tokenizer, (0,)):
            form.collect(event)

    asyncio.run(collect())
    return form.whole()


def streamed(request: OpenAiRequest, start: int) -> tuple[list[dict[str, Any]], str]:
    form = AnswerForm(request, toy_model(), opened(), (start,))

    async def collect() -> list[dict[str, Any]]:
        chunks = form.openings()
        async for event in answer_events(opened(), toy_model().tokenizer, (start,)):
            chunks += form.end(event) if isinstance(event, SampleEnd) else [form.tokens(event)]
        return chunks

    return asyncio.run(collect()), form.position


@pytest.mark.parametrize("start", range(4))
def test_a_streamed_completion_is_the_rest_of_the_whole_one(start: int) -> None:
    (choice,) = whole(asked(chat=False))["choices"]
    chunks, position = streamed(asked(chat=False, stream=True), start)
    parts = [chunk["choices"][0] for chunk in chunks]
    assert [token for part in parts for token in part["token_ids"]] == list(TOKENS[start:])
    assert choice["text"].endswith("".join(part["text"] for part in parts))
    offsets = [at for part in parts if part["logprobs"] for at in part["logprobs"]["text_offset"]]
    assert offsets == choice["logprobs"]["text_offset"][start:]
    assert [part["finish_reason"] for part in parts if part["finish_reason"]] == ["stop"]
    assert position == "3"


def test_a_streamed_chat_is_the_whole_one() -> None:
    (choice,) = whole(asked(chat=True))["choices"]
    chunks, _ = streamed(asked(chat=True, stream=True), 0)
    parts = [chunk["choices"][0] for chunk in chunks]
    text = "".join(part["delta"].get("content", "") for part in parts)
    assert choice["message"] == {"role": "assistant", "content": text, "refusal": None}
    contents = [
        entry for part in parts if part["logprobs"] for entry in part["logprobs"]["content"]
    ]
    assert contents == choice["logprobs"]["content"]
    assert parts[0]["delta"]["role"] == "assistant"
    rest, _ = streamed(asked(chat=True, stream=True), 2)
    assert "role" not in rest[0]["choices"][0]["delta"]


def test_the_usage_has_what_the_cache_and_speculation_saved() -> None:
    answer = whole(asked(chat=False))
    assert answer["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
        "speculation": {"rounds": 3, "drafted_tokens": 4, "accepted_tokens": 2},
    }
    assert (answer["id"], answer["prompt_token_ids"]) == ("cmpl-mine", (1, 2))


def test_each_chunk_has_the_usage_so_far_if_asked() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks, _ = streamed(asked(chat=False, stream=True, stream_options=options), 0)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [3, 3]
