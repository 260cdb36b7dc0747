"""OpenAI's own Python client gets the tokens, texts and log probabilities of gRPC."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from runtime.client import Client
from runtime.gateway.limits import GatewayLimits
from runtime.http.generation_endpoint import GenerationEndpoint
from runtime.http.openai_requests import read_completion
from runtime.requests.accepted_tokens import AcceptedTokens
from runtime.requests.served_model import UnknownModel
from tests.support.rig import Rig, expected_tokens, make_submit
from tests.support.serving import Serving, slow_down, toy_model, toy_tokenizer
from tests.support.waiting import wait_until

PROMPT = (1, 2, 3)
TEXT = "w1 w2 w3"
TURNS: list[Any] = [{"role": "user", "content": TEXT}]
IDS = {"return_token_ids": True}


@pytest.fixture
def grpc_client(serving: Serving) -> Iterator[Client]:
    with Client(serving.address) as made:
        yield made


def ids_of(choice: Any) -> list[int]:
    return list(choice.model_extra["token_ids"])


@pytest.mark.parametrize("mode", ["autoregressive", "speculative", "pearl"])
@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 0.8, "seed": 5, "top_p": 0.9},
        {"temperature": 1.2, "seed": 6, "extra_body": {"top_k": 9, "min_p": 0.02}},
        {"temperature": 0.7, "seed": 7, "n": 3, "extra_body": {"repetition_penalty": 1.3}},
        {"temperature": 0.9, "seed": 8, "stop": ["w7", "w11 w"]},
        {"seed": 9},
        {"temperature": 0.9, "seed": 3, "presence_penalty": 0.8, "frequency_penalty": 0.6},
        {"temperature": 0, "logit_bias": {"3": 2, "7": -5}},
        {"temperature": 0, "extra_body": {"stop_token_ids": [14, 40], "min_tokens": 9}},
    ],
)
def test_tokens_texts_and_ends_are_those_of_grpc(
    client: openai.OpenAI, grpc_client: Client, fields: dict[str, Any], mode: str
) -> None:
    extra = IDS | {"mode": mode} | fields.get("extra_body", {})
    body: dict[str, Any] = {"model": "toy", "prompt": TEXT, "max_tokens": 24} | fields
    body["extra_body"] = extra
    answer = client.completions.create(**body)
    streamed = list(client.completions.create(**body, stream=True))
    same = {"temperature": 1.0} | fields | extra
    for name in ("extra_body", "return_token_ids"):
        same.pop(name, None)
    if "logit_bias" in same:
        same["logit_bias"] = {int(token): bias for token, bias in same["logit_bias"].items()}
    chunks = list(grpc_client.generate(TEXT, max_tokens=24, **same))
    for index, choice in enumerate(answer.choices):
        mine = [chunk for chunk in chunks if chunk.sample == index]
        parts = [chunk.choices[0] for chunk in streamed if chunk.choices[0].index == index]
        tokens = [token for chunk in mine for token in chunk.token_ids]
        assert ids_of(choice) == tokens
        assert [token for part in parts for token in ids_of(part)] == tokens
        assert choice.text == "".join(part.text for part in parts)
        assert choice.text == "".join(chunk.text for chunk in mine)
        assert choice.finish_reason == parts[-1].finish_reason == mine[-1].finish_reason
    assert answer.usage is not None
    assert answer.usage.completion_tokens == sum(len(ids_of(c)) for c in answer.choices)
    assert answer.usage.model_extra is not None
    speculation = answer.usage.model_extra["speculation"]
    assert (speculation["accepted_tokens"] > 0) == (mode != "autoregressive")


@pytest.mark.parametrize("mode", ["autoregressive", "speculative", "pearl"])
def test_each_token_has_the_source_that_the_statistics_count(client: Any, mode: str) -> None:
    extra = {"return_token_sources": True, "mode": mode}
    body: Any = {"model": "toy", "prompt": TEXT, "temperature": 0, "max_tokens": 60}
    body["extra_body"] = extra
    whole = client.completions.create(**body)
    usage = {"include_usage": True}
    *chunks, last = client.completions.create(**body, stream=True, stream_options=usage)
    streamed = [
        source for chunk in chunks for source in chunk.choices[0].model_extra["token_sources"]
    ]
    for answer, sources in (
        (whole, whole.choices[0].model_extra["token_sources"]),
        (last, streamed),
    ):
        num_accepted = answer.usage.model_extra["speculation"]["accepted_tokens"]
        assert sources.count("accepted") == num_accepted
        assert len(sources) == 60
        if mode == "autoregressive":
            assert set(sources) == {"plain"}
            continue
        assert {"accepted", "recovered"} <= set(sources)


def test_a_chat_has_the_tokens_of_the_same_chat_over_grpc(
    client: openai.OpenAI, grpc_client: Client
) -> None:
    answer = client.chat.completions.create(
        model="toy", messages=TURNS, max_completion_tokens=16, temperature=0, extra_body=IDS
    )
    chunks = list(grpc_client.generate(TURNS, max_tokens=16))
    tokens = [token for chunk in chunks for token in chunk.token_ids]
    assert ids_of(answer.choices[0]) == tokens
    assert answer.choices[0].message.content == toy_tokenizer().decode(tokens)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.object == "chat.completion"
    assert tokens == expected_tokens(make_submit(prompt=(*PROMPT, 40), max_tokens=16))


def test_a_chat_streams_its_role_its_text_its_end_and_its_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="toy",
        messages=TURNS,
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    expected = expected_tokens(make_submit(prompt=(*PROMPT, 40), max_tokens=12))
    assert text == toy_tokenizer().decode(expected)
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert [reason for reason in reasons if reason] == ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (4, 12)
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_log_probabilities_are_those_of_grpc(client: openai.OpenAI, grpc_client: Client) -> None:
    chunks = list(grpc_client.generate(TEXT, max_tokens=10, logprobs=3))
    expected = [one for chunk in chunks for one in chunk.logprobs]
    answer = client.completions.create(
        model="toy", prompt=TEXT, max_tokens=10, temperature=0, logprobs=3
    )
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.token_logprobs == [one.logprob for one in expected]
    assert found.top_logprobs is not None
    assert [list(top.values()) for top in found.top_logprobs] == [
        list(one.top_logprobs) for one in expected
    ]
    chat = client.chat.completions.create(
        model="toy",
        messages=TURNS,
        max_tokens=10,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
        extra_body=IDS,
    )
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    names = [f" w{token}" for token in ids_of(chat.choices[0])]
    assert [entry.token for entry in logprobs.content] == names
    assert [bytes(entry.bytes or ()).decode() for entry in logprobs.content] == names
    assert all(len(entry.top_logprobs) == 2 for entry in logprobs.content)
    assert all(entry.top_logprobs[0].token == entry.token for entry in logprobs.content)


def test_token_ids_are_a_prompt_too(client: openai.OpenAI) -> None:
    answers = [
        client.completions.create(model="toy", prompt=prompt, max_tokens=8, temperature=0)
        for prompt in (TEXT, list(PROMPT), [list(PROMPT)], [TEXT])
    ]
    assert len({answer.choices[0].text for answer in answers}) == 1


@pytest.mark.parametrize("mode", ["speculative", "pearl"])
def test_several_prompts_get_the_answers_that_each_gets_alone(
    serving: Serving, client: openai.OpenAI, mode: str
) -> None:
    prompts: Any = ["w1 w2 w3", [5, 6, 7, 5, 6], "w9"]
    fields: dict[str, Any] = {
        "model": "toy",
        "max_tokens": 16,
        "n": 2,
        "temperature": 0.8,
        "seed": 4,
        "extra_body": IDS | {"mode": mode},
    }
    alone = [client.completions.create(prompt=prompt, **fields) for prompt in prompts]
    answer = client.completions.create(prompt=prompts, **fields)
    expected = [choice for one in alone for choice in one.choices]
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert [choice.text for choice in answer.choices] == [choice.text for choice in expected]
    assert list(map(ids_of, answer.choices)) == list(map(ids_of, expected))
    given = [(choice.model_extra or {})["prompt_token_ids"] for choice in answer.choices]
    assert given == [one for two in [[1, 2, 3], [5, 6, 7, 5, 6], [9]] for one in (two, two)]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3 + 5 + 1
    assert answer.usage.completion_tokens == 6 * 16
    assert (answer.usage.model_extra or {})["speculation"]["accepted_tokens"] > 0
    streamed: dict[int, list[int]] = {}
    for chunk in client.completions.create(prompt=prompts, stream=True, **fields):
        for choice in chunk.choices:
            streamed.setdefault(choice.index, []).extend(ids_of(choice))
    assert streamed == dict(enumerate(map(ids_of, expected)))
    assert serving.gateway.num_open == 0


def test_what_is_wrong_with_one_of_several_prompts_names_it(client: openai.OpenAI) -> None:
    for prompts, words in (
        (["w1", ""], r"`prompt\[1\]` has no tokens"),
        (["w1", [1, 99]], r"prompt\[1\]\[1\] is 99"),
    ):
        with pytest.raises(openai.BadRequestError, match=words):
            client.completions.create(model="toy", prompt=prompts, max_tokens=4)  # type: ignore[arg-type]  # both forms at once
    with pytest.raises(openai.BadRequestError, match="has 80 samples, each client may have 64"):
        client.completions.create(model="toy", prompt=["w1"] * 40, n=2, max_tokens=4)


def test_the_seed_of_an_answer_repeats_it(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"model": "toy", "prompt": TEXT, "max_tokens": 16}
    raw = client.completions.with_raw_response.create(**fields)
    other = client.completions.create(**fields)
    seed = int(raw.headers["x-paceline-seed"])
    again = client.completions.create(**fields, seed=seed)
    assert again.choices[0].text == raw.parse().choices[0].text != other.choices[0].text


@pytest.mark.parametrize(
    ("fields", "words", "param"),
    [
        ({"temperature": -1}, "`temperature` is -1", "temperature"),
        ({"logit_bias": {"48": 1}}, "`logit_bias` has the token 48", "logit_bias"),
        ({"logit_bias": {"w1": 1}}, "`logit_bias` has the key 'w1'", "logit_bias"),
        ({"extra_body": {"stop_token_ids": [48]}}, "has the token 48", "stop_token_ids"),
        ({"logprobs": 21}, "`logprobs` is 21", "logprobs"),
        ({"prompt": ["w1"] * 129}, "`prompt` has 129 prompts", "prompt"),
        ({"prompt": [1, 48]}, "prompt[1] is 48", "prompt[1]"),
        ({"best_of": 4}, "`best_of` is 4, which is not supported", "best_of"),
        ({"extra_body": {"n_probs": 2}}, "`n_probs` is not a field", "n_probs"),
        ({"extra_body": {"max_token": 3}}, "did you mean `max_tokens`?", "max_token"),
        ({"stream_options": {"include_usage": True}}, "needs `stream` true", "stream_options"),
    ],
)
def test_what_cannot_be_served_is_rejected_by_its_field(
    client: openai.OpenAI, fields: dict[str, Any], words: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as rejected:
        client.completions.create(**({"model": "toy", "prompt": TEXT} | fields))
    assert words in rejected.value.message
    assert rejected.value.param == param


def test_tools_need_a_template_that_defines_calls(client: openai.OpenAI) -> None:
    tools: list[Any] = [{"type": "function", "function": {"name": "look"}}]
    with pytest.raises(openai.BadRequestError, match="template of toy defines no calls"):
        client.chat.completions.create(model="toy", messages=TURNS, tools=tools)
    answer = client.chat.completions.create(
        model="toy", messages=TURNS, tools=tools, tool_choice="none", max_tokens=2
    )
    assert answer.choices[0].finish_reason == "length"


def test_another_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="this server has 'toy'") as rejected:
        client.chat.completions.create(model="gpt-4o", messages=TURNS)
    assert rejected.value.code == "model_not_found"
    assert [model.id for model in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").owned_by == "paceline"
    with pytest.raises(openai.BadRequestError, match="no embeddings"):
        client.embeddings.create(model="toy", input="w1")


def test_an_endpoint_rejects_a_body_above_its_limit(serving: Serving) -> None:
    endpoint = GenerationEndpoint(
        serving.server.admission, AcceptedTokens(), read_completion, max_body_bytes=20
    )

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=endpoint)
        async with httpx.AsyncClient(transport=transport, base_url="http://toy") as client:
            return await client.post("/", json={"prompt": TEXT, "max_tokens": 4})

    assert serving.call(ask()).status_code == 413


def test_a_request_may_name_no_model() -> None:
    model = toy_model()
    assert model.version_of(None) == model.version_of("toy") == ""
    with pytest.raises(UnknownModel, match="the model '' is not served here"):
        model.version_of("")


def test_a_client_that_leaves_frees_its_request(
    rig: Rig, serving: Serving, client: openai.OpenAI
) -> None:
    slow_down(rig, 0.01)
    stream = client.completions.create(model="toy", prompt=TEXT, max_tokens=300, stream=True)
    next(iter(stream))
    assert serving.gateway.num_open == 1
    stream.close()
    wait_until(lambda: serving.gateway.num_open == 0)
    wait_until(lambda: not rig.engine._scheduler.running)
    with pytest.raises(openai.APITimeoutError):
        client.completions.create(model="toy", prompt=TEXT, max_tokens=300, timeout=0.3)
    wait_until(lambda: serving.gateway.num_open == 0)


def test_a_full_server_says_when_to_try_again(rig: Rig) -> None:
    slow_down(rig, 0.01)
    serving = Serving(rig, http={}, limits=GatewayLimits(max_open_per_client=1))
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="x", max_retries=0) as client:
        stream = client.completions.create(model="toy", prompt=TEXT, max_tokens=300, stream=True)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as rejected:
            client.completions.create(model="toy", prompt=TEXT)
        assert rejected.value.response.headers["retry-after"] == "1"
        assert rejected.value.code == "rate_limit_exceeded"
        stream.close()
    serving.close()


def test_a_named_stream_is_resumed_where_it_stopped(rig: Rig, serving: Serving) -> None:
    slow_down(rig, 0.01)
    body = {"model": "toy", "prompt": TEXT, "max_tokens": 40, "temperature": 1, "n": 2}
    body |= {"stream": True, "request_id": "mine", "return_token_ids": True}
    url = f"{serving.url}/v1/completions"

    def events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
        lines = response.iter_lines()
        for line in lines:
            if line.startswith("id: "):
                yield line[4:], httpx.Response(200, text=next(lines)[6:]).json()

    got: dict[int, list[int]] = {0: [], 1: []}
    texts = {0: "", 1: ""}

    def note(chunk: dict[str, Any]) -> None:
        (choice,) = chunk["choices"]
        got[choice["index"]] += choice["token_ids"]
        texts[choice["index"]] += choice["text"]

    last_ids = []
    with httpx.stream("POST", url, json=body) as response:
        for event_id, chunk in events(response):
            last_ids.append(event_id)
            note(chunk)
            if len(got[0]) >= 5:
                break
    headers = {"last-event-id": last_ids[-1]}
    with httpx.stream("POST", url, json=body, headers=headers) as response:
        for _, chunk in events(response):
            note(chunk)
    whole = httpx.post(url, json=body | {"stream": False}).json()  # nothing is computed again
    assert [choice["token_ids"] for choice in whole["choices"]] == [got[0], got[1]]
    assert [choice["text"] for choice in whole["choices"]] == [texts[0], texts[1]]
    rejected = httpx.post(url, json=body | {"max_tokens": 7})
    assert rejected.status_code == 400
    assert "belongs to another request" in rejected.text


def test_many_clients_of_both_wires_get_what_the_engine_alone_gives(serving: Serving) -> None:
    async def ask(client: openai.AsyncOpenAI, number: int) -> list[int]:
        stream = await client.completions.create(
            model="toy",
            prompt=[*PROMPT, number % 40],
            max_tokens=30,
            temperature=0,
            stream=True,
            extra_body=IDS,
        )
        return [token async for chunk in stream for token in ids_of(chunk.choices[0])]

    async def run() -> list[list[int]]:
        url = f"{serving.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(32)))

    with Client(serving.address) as grpc_client:
        calls = [grpc_client.generate([*PROMPT, n], max_tokens=30) for n in range(16)]
        heads = [next(call) for call in calls]
        answers = asyncio.run(run())
        for number, (head, call) in enumerate(zip(heads, calls, strict=True)):
            tokens = [*head.token_ids, *(token for chunk in call for token in chunk.token_ids)]
            assert tokens == alone(number)
    assert answers == [alone(number % 40) for number in range(32)]
    wait_until(lambda: serving.gateway.status.accepted > 0)  # a second old at most


def alone(number: int) -> list[int]:
    return expected_tokens(make_submit(prompt=(*PROMPT, number), max_tokens=30))
