"""The journals of a request become events: every token once, and one end for each sample."""

import asyncio

import pytest

from parallel.decoding.types import DecodeMode, SamplingParams, VerifierKind
from parallel.messages import Finished, RequestStats, Submit
from runtime.errors import PacelineError
from runtime.gateway.journal import Journal, OpenRequest
from runtime.requests.answer_events import SampleEnd, TokensEvent, answer_events
from tests.support.serving import toy_tokenizer

STATS = RequestStats(rounds=3)


def request(*samples: tuple[int, ...], stop: tuple[str, ...] = ()) -> OpenRequest:
    journals = []
    for index, token_ids in enumerate(samples):
        submit = Submit(
            request=index,
            prompt_ids=(1,),
            sampling=SamplingParams(),
            mode=DecodeMode.AUTOREGRESSIVE,
            verifier=VerifierKind.MATCH,
            max_tokens=8,
            stop=stop,
        )
        journal = Journal(submit=submit, token_ids=list(token_ids))
        journal.end(Finished(request=index, reason="length", stats=STATS))
        journals.append(journal)
    return OpenRequest(client="me", name="mine", samples=journals)


def events_of(opened: OpenRequest, *offsets: int) -> list[TokensEvent | SampleEnd]:
    async def collect() -> list[TokensEvent | SampleEnd]:
        return [event async for event in answer_events(opened, toy_tokenizer(), offsets)]

    return asyncio.run(collect())


def text_of(events: list[TokensEvent | SampleEnd], sample: int = 0) -> str:
    return "".join(event.text for event in events if event.sample == sample)


def test_an_answer_has_its_tokens_its_text_and_one_end() -> None:
    events = events_of(request((11, 12, 3)), 0)
    assert [e.token_ids for e in events if isinstance(e, TokensEvent)] == [(11, 12, 3)]
    assert text_of(events) == "w11 w12 w3"
    end = events[-1]
    assert isinstance(end, SampleEnd)
    assert (end.reason, end.num_tokens, end.stats) == ("length", 3, STATS)


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_a_resumed_answer_has_only_what_the_client_lacks(offset: int) -> None:
    tokens = (11, 12, 3)
    events = events_of(request(tokens), offset)
    sent = [token for e in events if isinstance(e, TokensEvent) for token in e.token_ids]
    assert sent == list(tokens[offset:])
    assert "w11 w12 w3".endswith(text_of(events))


def test_each_sample_has_its_own_offset_and_end() -> None:
    events = events_of(request((11, 12), (13, 14)), 1, 0)
    ends = [event.sample for event in events if isinstance(event, SampleEnd)]
    assert sorted(ends) == [0, 1]
    assert text_of(events, 0).strip() == "w12"
    assert text_of(events, 1) == "w13 w14"


def test_the_text_ends_before_a_stop_string() -> None:
    assert text_of(events_of(request((11, 12, 3), stop=("w12",)), 0)) == "w11 "


def test_a_failed_request_raises_its_error() -> None:
    opened = request((11,))
    opened.samples[0].finished = None
    opened.samples[0].fail(PacelineError("the engine failed"))
    with pytest.raises(PacelineError, match="the engine failed"):
        events_of(opened, 0)
