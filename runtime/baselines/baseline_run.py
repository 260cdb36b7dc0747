"""What a baseline generated, and the time it took."""

from dataclasses import dataclass

TRANSFORMERS_LOOKUP = 10
"""The number of tokens that transformers' prompt lookup drafts in its guide."""
BASELINES = {"transformers": None, "transformers-lookup": TRANSFORMERS_LOOKUP}
"""Baselines of `bench decode`, with the number of tokens that their prompt lookup drafts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRun:
    """Prompts that an engine answered one after the other."""

    token_ids: tuple[tuple[int, ...], ...]
    first_s: tuple[float, ...]
    """Seconds from each prompt's start to its first token."""
    wall_s: float
    """Seconds of all prompts together."""
