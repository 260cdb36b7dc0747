"""The chunks of a stream join to the whole answer, and a resumed one to its rest."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from parallel.decoding.token_source import TokenSource
from parallel.decoding.types import DecodeMode, SamplingParams, TokenLogprobs, VerifierKind
from parallel.messages import Finished, RequestStats, Submit
from runtime.gateway.journal import Journal, OpenRequest
from runtime.http.answer_forms import AnswerForm
from runtime.http.openai_requests import OpenAiRequest, read_chat, read_completion
from runtime.models.tokenizer import Tokenizer
from runtime.requests.answer_events import SampleEnd, answer_events
from tests.support.serving import toy_model
from tests.support.tokenizer_layouts import LAYOUTS

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
    sources = [TokenSource.ACCEPTED, TokenSource.RECOVERED, TokenSource.PLAIN]
    journal = Journal(submit=submit, token_ids=list(TOKENS), logprobs=logprobs, sources=sources)
    journal.end(Finished(request=0, reason=reason, stats=STATS))
    return OpenRequest(client="me", name="mine", samples=[journal])


def asked(*, chat: bool, **fields: Any) -> OpenAiRequest:
    fields |= {"return_token_ids": True, "return_token_sources": True, "request_id": "mine"}
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
            chunks += form.end(event) if isinstance(event, SampleEnd) else form.tokens(event)
        return chunks

    return asyncio.run(collect()), form.position


@pytest.mark.parametrize("start", range(4))
def test_a_streamed_completion_is_the_rest_of_the_whole_one(start: int) -> None:
    (choice,) = whole(asked(chat=False))["choices"]
    chunks, position = streamed(asked(chat=False, stream=True), start)
    parts = [chunk["choices"][0] for chunk in chunks]
    assert [token for part in parts for token in part["token_ids"]] == list(TOKENS[start:])
    assert choice["token_sources"] == ["accepted", "recovered", "plain"]
    sources = [source for part in parts for source in part["token_sources"]]
    assert sources == choice["token_sources"][start:]
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


TOOLS = [{"type": "function", "function": {"name": "look"}}]
ANSWER = 'See.\n<tool_call>{"name": "look", "arguments": {"a": 1}}</tool_call>'


def test_calls_of_tools_have_their_own_place_whole_and_streamed(tmp_path: Path) -> None:
    LAYOUTS["byte-level"](tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    tokenizer._chat._source = "<tool_call></tool_call>"
    model, request = toy_model(tokenizer), opened()
    request.samples[0].token_ids = tokenizer.encode(ANSWER, whole=False)
    asked = read_chat({"messages": [{"role": "user", "content": "hi"}], "tools": TOOLS})
    whole_form, stream_form = (AnswerForm(asked, model, request, (0,)) for _ in range(2))

    async def collect() -> list[dict[str, Any]]:
        chunks = stream_form.openings()
        async for event in answer_events(request, tokenizer, (0,)):
            whole_form.collect(event)
            if isinstance(event, SampleEnd):
                chunks += stream_form.end(event)
            else:
                chunks += stream_form.tokens(event)
        return chunks

    choices = [chunk["choices"][0] for chunk in asyncio.run(collect())]
    (choice,) = whole_form.whole()["choices"]
    assert choice["finish_reason"] == choices[-1]["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "See."
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": '{"a": 1}'}
    deltas = [one["delta"] for one in choices]
    assert "".join(delta.get("content", "") for delta in deltas) == "See."
    (streamed_call,) = [one for delta in deltas for one in delta.get("tool_calls", ())]
    assert streamed_call["function"] == call["function"]
    assert (streamed_call["index"], streamed_call["type"]) == (0, "function")
