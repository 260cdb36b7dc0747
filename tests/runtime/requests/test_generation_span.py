"""A generation's span has what was asked and what came of it, summed over its samples."""

from typing import Any

from parallel.messages import RequestStats
from runtime.requests.generation_span import GenerationSpan


class Span:
    """Keeps attributes."""

    def __init__(self) -> None:
        self.name = ""
        self.attributes: dict[str, Any] = {}

    def update_name(self, name: str) -> None:
        self.name = name

    def set_attribute(self, key: str, value: object) -> None:
        self.attributes[key] = value

    def set_attributes(self, attributes: dict[str, Any]) -> None:
        self.attributes |= attributes


def test_samples_add_up() -> None:
    kept = Span()
    span = GenerationSpan(kept, "toy")
    span.asked({"n": 2, "stop": ("a",), "model": "sst2"}, is_chat=True, streams=False)
    span.accepted(3, "")
    span.sample_ended("stop", RequestStats(rounds=2, drafted=3, accepted=1))
    span.sample_ended("length", RequestStats(rounds=4, drafted=5, accepted=4, queued_s=0.5))
    span.ended(17)
    assert kept.name == "chat toy"
    assert kept.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "paceline",
        "gen_ai.request.model": "sst2",
        "gen_ai.request.stream": False,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.stop_sequences": ["a"],
        "gen_ai.response.model": "toy",
        "gen_ai.response.finish_reasons": ["stop", "length"],
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 17,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "paceline.rounds": 6,
        "paceline.drafted_tokens": 8,
        "paceline.accepted_tokens": 5,
        "paceline.queued_s": 0.5,
    }


def test_only_the_first_tokens_are_timed_and_a_seed_fits_or_is_left_out() -> None:
    kept = Span()
    span = GenerationSpan(kept, "toy")
    span.asked({"seed": 2**63, "temperature": 0.0}, is_chat=False, streams=True)
    assert "gen_ai.request.seed" not in kept.attributes
    assert kept.attributes["gen_ai.request.temperature"] == 0.0
    span.continued()
    first_s = kept.attributes["gen_ai.response.time_to_first_chunk"]
    span.continued()
    assert kept.attributes["gen_ai.response.time_to_first_chunk"] == first_s
