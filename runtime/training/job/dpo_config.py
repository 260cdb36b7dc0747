"""The settings of a job that learns preferences."""

from dataclasses import dataclass
from typing import Annotated

from runtime.checking.tables import Range
from runtime.training.job.ranges import AboveZero


@dataclass(frozen=True, slots=True, kw_only=True)
class DpoConfig:
    """The loss of objective "dpo" (Rafailov et al., arXiv 2305.18290)."""

    beta: AboveZero = 0.1
    """How strongly the model is kept near the reference, which is the base without its adapter."""
    label_smoothing: Annotated[float, Range(least=0, below=0.5)] = 0.0
    """Share of the records whose preference is assumed to be the wrong way round."""
