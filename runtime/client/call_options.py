"""The keyword arguments of `generate`, for type checkers; `Sampling` says what they mean."""

from collections.abc import Sequence
from typing import TypedDict


class SamplingFields(TypedDict, total=False):
    """The fields of `runtime.client.sampling_fields.Sampling`."""

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    ignore_eos: bool
    mode: str | None
    n: int | None
    logprobs: int | None
    priority: int
