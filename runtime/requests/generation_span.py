"""The span of a generation, with OpenTelemetry's attributes for GenAI; the same for every wire.

No attribute has prompts or answers.
"""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

_PLAIN = ("max_tokens", "temperature", "top_k", "top_p", "seed")
RECORDED = (*_PLAIN, "n", "stop", "model")
"""The fields of a request, as `Sampling` names them, that a span has."""
_MAX_INT = 2**63 - 1  # of an attribute


class GenerationSpan:
    """Records what was asked, and what came of it."""

    def __init__(self, span: Any, model_name: str) -> None:
        """Record into a span from now on.

        Args:
            span: an OpenTelemetry span; its owner ends it.
            model_name: the served model.
        """
        self._span = span
        self._model_name = model_name
        self._start_s = time.monotonic()
        self._awaits_first = True
        self._reasons: list[str] = []
        self._counts: Counter[str] = Counter()
        self.failure: Exception | None = None
        """Why the answer ended early, if its wire has told so."""

    def asked(self, fields: Mapping[str, Any], *, is_chat: bool, streams: bool) -> None:
        """Record a request.

        Args:
            fields: those of `RECORDED` that it sets.
            is_chat: whether its prompt is a conversation.
            streams: whether its answer is a stream.
        """
        operation = "chat" if is_chat else "text_completion"
        found: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "paceline",
            "gen_ai.request.model": fields.get("model") or self._model_name,
            "gen_ai.request.stream": streams,
        }
        found |= {f"gen_ai.request.{name}": fields[name] for name in _PLAIN if name in fields}
        if found.get("gen_ai.request.seed", 0) > _MAX_INT:
            del found["gen_ai.request.seed"]
        if fields.get("n", 1) != 1:
            found["gen_ai.request.choice.count"] = fields["n"]
        if fields.get("stop"):
            found["gen_ai.request.stop_sequences"] = list(fields["stop"])
        self._span.update_name(f"{operation} {self._model_name}")
        self._span.set_attributes(found)

    def accepted(self, num_prompt_tokens: int, response_id: str) -> None:
        """Record that the request is queued; "" is an answer without a name."""
        self._span.set_attribute("gen_ai.usage.input_tokens", num_prompt_tokens)
        self._span.set_attribute("gen_ai.response.model", self._model_name)
        if response_id:
            self._span.set_attribute("gen_ai.response.id", response_id)

    def continued(self) -> None:
        """Record that tokens arrived."""
        if self._awaits_first:
            self._awaits_first = False
            first_s = time.monotonic() - self._start_s
            self._span.set_attribute("gen_ai.response.time_to_first_chunk", first_s)

    def sample_ended(self, reason: str, stats: Any) -> None:
        """Record the end of a sample, with its `RequestStats` or their wire form."""
        self._reasons.append(reason)
        self._counts.update(
            {
                "paceline.rounds": stats.rounds,
                "paceline.drafted_tokens": stats.drafted,
                "paceline.accepted_tokens": stats.accepted,
                "gen_ai.usage.cache_read.input_tokens": stats.cached_prompt,
            }
        )
        self._span.set_attributes(dict(self._counts) | {"paceline.queued_s": stats.queued_s})

    def ended(self, num_tokens: int) -> None:
        """Record the end of the answer, with the tokens of all its samples."""
        self._span.set_attribute("gen_ai.response.finish_reasons", self._reasons)
        self._span.set_attribute("gen_ai.usage.output_tokens", num_tokens)
