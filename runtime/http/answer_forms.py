"""The bodies of one request's answer in OpenAI's form, whole or as the chunks of a stream."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from parallel.decoding.token_source import TokenSource
from parallel.decoding.types import TokenLogprobs
from runtime.gateway.journal import OpenRequest
from runtime.http.logprob_forms import chat_logprobs, completion_logprobs, num_characters
from runtime.http.openai_requests import OpenAiRequest
from runtime.http.tool_calls import ToolCall, ToolCallReader, tool_form
from runtime.requests.answer_events import SampleEnd, TokensEvent
from runtime.requests.served_model import ServedModel

_FINISH_REASONS = {"stop": "stop", "length": "length", "cancelled": "cancelled"}


@dataclass(slots=True)
class _Sample:
    """What has been sent, or collected, of one sample."""

    num_tokens: int
    num_characters: int = 0
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    sources: list[TokenSource] = field(default_factory=list)
    finish_reason: str | None = None
    num_calls: int = 0
    marks: dict[str, Any] = field(default_factory=dict)
    """Fields of its choice that its end brings."""
    reader: ToolCallReader = field(default_factory=lambda: ToolCallReader(None))


class AnswerForm:
    """Makes the bodies of an answer; `tokens` and `end` receive each event once, in order."""

    def __init__(
        self,
        asked: OpenAiRequest,
        model: ServedModel,
        request: OpenRequest,
        resume_from: Sequence[int],
    ) -> None:
        self._asked = asked
        self._model = model
        self._request = request
        self._samples = [_Sample(num) for num in resume_from]
        kind = "chatcmpl" if asked.is_chat else "cmpl"
        self.id = f"{kind}-{asked.request_id or uuid.uuid4().hex}"
        self._created = int(time.time())
        if asked.has_tools:
            form = tool_form(model.tokenizer.tool_template, model.name)
            for sample in self._samples:
                sample.reader = ToolCallReader(form)
        for sample, journal in zip(self._samples, request.samples, strict=True):
            before = journal.token_ids[: sample.num_tokens]
            if before and self._has_logprobs and not asked.is_chat:
                sample.num_characters = num_characters(model.tokenizer, before)

    @property
    def position(self) -> str:
        """How many tokens of each sample have been sent, as the id of a stream's event."""
        return ",".join(str(sample.num_tokens) for sample in self._samples)

    def openings(self) -> list[dict[str, Any]]:
        """Return the first chunks of a chat stream, which name the role; none of a completion."""
        if not self._asked.is_chat:
            return []
        delta = {"role": "assistant", "content": ""}
        return [
            self._chunk(self._chat_choice(index, delta, None, None, self._marks((), ())))
            for index, sample in enumerate(self._samples)
            if not sample.num_tokens
        ]

    def chunks(self, event: TokensEvent | SampleEnd) -> list[dict[str, Any]]:
        """Return the chunks of an event."""
        return self.end(event) if isinstance(event, SampleEnd) else self.tokens(event)

    def tokens(self, event: TokensEvent) -> list[dict[str, Any]]:
        """Return the chunks of new tokens."""
        sample = self._samples[event.sample]
        logprobs = self._logprobs(event.token_ids, event.logprobs, sample.num_characters)
        sample.num_tokens += len(event.token_ids)
        if logprobs is not None and not self._asked.is_chat:
            sample.num_characters += num_characters(self._model.tokenizer, event.token_ids)
        marks = self._marks(event.token_ids, event.sources)
        if not self._asked.is_chat:
            choice = self._text_choice(event.sample, event.text, logprobs, None, marks)
            return [self._chunk(choice)]
        first, *others = self._deltas(sample, sample.reader.push(event.text)) or [{}]
        choice = self._chat_choice(event.sample, first, logprobs, None, marks)
        return [self._chunk(choice), *self._delta_chunks(event.sample, others)]

    def end(self, event: SampleEnd) -> list[dict[str, Any]]:
        """Return the last chunks of a sample."""
        reason, marks = _FINISH_REASONS[event.reason], self._marks((), ()) | _complete(event)
        if not self._asked.is_chat:
            choice = self._text_choice(event.sample, event.text, None, reason, marks)
            return [self._chunk(choice)]
        sample = self._samples[event.sample]
        pieces = [*sample.reader.push(event.text), *sample.reader.finish()]
        chunks = self._delta_chunks(event.sample, self._deltas(sample, pieces))
        last = self._chat_choice(event.sample, {}, None, _with_calls(reason, sample), marks)
        return [*chunks, self._chunk(last)]

    def usage_chunk(self) -> dict[str, Any]:
        """Return the chunk that has the usage of the whole request and no text."""
        return self._head(is_chunk=True) | {"choices": [], "usage": self._usage()}

    def collect(self, event: TokensEvent | SampleEnd) -> None:
        """Add an event to the whole answer."""
        sample = self._samples[event.sample]
        sample.texts.append(event.text)
        if isinstance(event, SampleEnd):
            sample.finish_reason = _FINISH_REASONS[event.reason]
            sample.marks = _complete(event)
            return
        sample.token_ids.extend(event.token_ids)
        sample.logprobs.extend(event.logprobs)
        sample.sources.extend(event.sources)
        sample.num_tokens += len(event.token_ids)

    def whole(self) -> dict[str, Any]:
        """Return the body of the whole answer, once all its events are collected."""
        choices = []
        for index, sample in enumerate(self._samples):
            text, ids, reason = "".join(sample.texts), sample.token_ids, sample.finish_reason
            logprobs = self._logprobs(ids, sample.logprobs, 0)
            marks = self._marks(ids, sample.sources) | sample.marks
            if self._asked.has_token_ids and self._has_prompts:
                marks["prompt_token_ids"] = self._request.samples[index].submit.prompt_ids
            if not self._asked.is_chat:
                choices.append(self._text_choice(index, text, logprobs, reason, marks))
                continue
            message = self._message(sample, text)
            reason = _with_calls(reason, sample)
            choice = self._chat_choice(index, message, logprobs, reason, marks)
            choice["message"] = choice.pop("delta")
            choices.append(choice)
        body = self._head(is_chunk=False) | {"choices": choices, "usage": self._usage()}
        if self._asked.has_token_ids and not self._has_prompts:
            body["prompt_token_ids"] = self._request.samples[0].submit.prompt_ids
        return body

    # --- parts ------------------------------------------------------------------------------

    def _message(self, sample: _Sample, text: str) -> dict[str, Any]:
        deltas = self._deltas(sample, [*sample.reader.push(text), *sample.reader.finish()])
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(delta.get("content", "") for delta in deltas),
            "refusal": None,
        }
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        if calls:
            message["content"] = message["content"] or None
            message["tool_calls"] = [
                {key: held for key, held in call.items() if key != "index"} for call in calls
            ]
        return message

    def _deltas(self, sample: _Sample, pieces: Sequence[str | ToolCall]) -> list[dict[str, Any]]:
        deltas: list[dict[str, Any]] = []
        for piece in pieces:
            if isinstance(piece, str):
                deltas.append({"content": piece})
                continue
            call = {
                "index": sample.num_calls,
                "id": f"call_{uuid.uuid4().hex}",
                "type": "function",
                "function": {"name": piece.name, "arguments": piece.arguments},
            }
            sample.num_calls += 1
            deltas.append({"tool_calls": [call]})
        return deltas

    def _delta_chunks(self, index: int, deltas: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        marks = self._marks((), ())
        return [self._chunk(self._chat_choice(index, one, None, None, marks)) for one in deltas]

    @property
    def _has_prompts(self) -> bool:
        """Whether there are several prompts."""
        return len(self._asked.generation.prompts) > 1

    @property
    def _has_logprobs(self) -> bool:
        return self._asked.generation.sampling.logprobs is not None

    def _logprobs(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs], offset: int
    ) -> dict[str, Any] | None:
        if not self._has_logprobs:
            return None
        tokenizer = self._model.tokenizer
        if self._asked.is_chat:
            return chat_logprobs(tokenizer, token_ids, logprobs)
        return completion_logprobs(tokenizer, token_ids, logprobs, offset=offset)

    def _text_choice(
        self,
        index: int,
        text: str,
        logprobs: dict[str, Any] | None,
        reason: str | None,
        marks: dict[str, Any],
    ) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return choice | marks

    def _chat_choice(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None,
        reason: str | None,
        marks: dict[str, Any],
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return choice | marks

    def _marks(self, token_ids: Sequence[int], sources: Sequence[TokenSource]) -> dict[str, Any]:
        """Return the fields of a choice, beyond OpenAI's, that the request asks for."""
        marks: dict[str, Any] = {}
        if self._asked.has_token_ids:
            marks["token_ids"] = list(token_ids)
        if self._asked.has_token_sources:
            marks["token_sources"] = list(sources)
        return marks

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        body = self._head(is_chunk=True) | {"choices": [choice]}
        if self._asked.has_usage_always:
            body["usage"] = self._counts()
        elif self._asked.has_usage:
            body["usage"] = None
        return body

    def _head(self, *, is_chunk: bool) -> dict[str, Any]:
        kind = "text_completion"
        if self._asked.is_chat:
            kind = "chat.completion.chunk" if is_chunk else "chat.completion"
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._asked.generation.sampling.model or self._model.name,
            "system_fingerprint": f"paceline-{self._model.version}",
        }

    def _counts(self) -> dict[str, Any]:
        prompt = self._request.num_prompt_tokens
        tokens = sum(sample.num_tokens for sample in self._samples)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": tokens,
            "total_tokens": prompt + tokens,
        }

    def _usage(self) -> dict[str, Any]:
        """Return the counts, and what the prefix cache and speculation saved."""
        found = [journal.finished for journal in self._request.samples]
        stats = [finished.stats for finished in found if finished is not None]
        firsts = found[:: self._asked.generation.sampling.num_samples]  # of each prompt
        cached = sum(finished.stats.cached_prompt for finished in firsts if finished is not None)
        return self._counts() | {
            "prompt_tokens_details": {"cached_tokens": cached},
            "speculation": {
                "rounds": sum(one.rounds for one in stats),
                "drafted_tokens": sum(one.drafted for one in stats),
                "accepted_tokens": sum(one.accepted for one in stats),
            },
        }


def _complete(event: SampleEnd) -> dict[str, Any]:
    """Return the field that says whether a constraint is satisfied; none without one."""
    return {} if event.complete is None else {"complete": event.complete}


def _with_calls(reason: str | None, sample: _Sample) -> str | None:
    return "tool_calls" if reason == "stop" and sample.num_calls else reason
