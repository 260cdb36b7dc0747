"""Faults that a training job injects into its own workers, for experiments."""

from dataclasses import dataclass
from typing import Annotated

from runtime.checking.tables import Range

_Share = Annotated[float, Range(least=0, below=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultsConfig:
    """Faults to inject, for experiments."""

    slow: _Share = 0.0
    """Share of the chunks that a worker is slow with."""
    factor: Annotated[float, Range(least=1)] = 10.0
    """How many times as long a slow chunk takes."""
    hang: _Share = 0.0
    """Share of the chunks at which a worker hangs forever."""
    kill: _Share = 0.0
    """Share of the chunks, or rounds, at which a worker's process ends."""
    lose: _Share = 0.0
    """Share of a shared-seed worker's messages, and of answers, that are lost."""
    repeat: _Share = 0.0
    """Share of them that arrive twice."""
    delay_s: Annotated[float, Range(least=0)] = 0.0
    """Seconds of delay between a worker and the sequencer, for a message and its answer."""
    seed: int = 0
    """Random seed of the faults."""
