"""How a quantized copy scores texts, compared with its model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from cluster.bench.case_progress import case_progress
from parallel.model.score_quality import ScoreQuality
from runtime.errors import ConfigError
from runtime.hosts.weight_quality import Reading, WeightQuality
from runtime.models.model_facts import read_facts
from runtime.models.scored_texts import SAMPLE_TEXTS, ScoredText, read_scored_texts
from runtime.models.tokenizer import Tokenizer
from runtime.node.cores import usable_cores
from runtime.rank.memory_check import available_bytes

_MAX_TOKENS = 512
_COPY = "copy"
_SPARE = 1.2
"""Both models need their weights, and a little more for caches and activations."""
_GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class NotMeasured:
    """Why there are no scores."""

    reason: str


def read_texts(
    directory: Path, file: Path | None, *, limit: int | None
) -> list[ScoredText] | NotMeasured:
    """Return the texts of a file, or the samples that come with the package.

    Raises:
        ConfigError: the file, or a line of it, cannot be used.
    """
    most = min(_MAX_TOKENS, read_facts(directory).config.max_positions)
    try:
        tokenizer = Tokenizer.load(directory)
        return read_scored_texts(
            file or SAMPLE_TEXTS, tokenizer, limit=limit, max_tokens=most, chat=False
        )
    except ConfigError as error:
        if file is not None:
            raise
        return NotMeasured(reason=str(error))


def measure_copy(
    directory: Path, copy: Path, texts: Sequence[ScoredText], notes: Console
) -> ScoreQuality | NotMeasured:
    """Score texts by a model and its copy, each as its file has it; both are in memory."""
    needed = sum(read_facts(one).weight_bytes("auto", "cpu") for one in (directory, copy))
    free = available_bytes()
    if needed * _SPARE > free:
        return NotMeasured(
            reason=f"model and copy need {needed * _SPARE / _GB:.1f} GB of memory together, "
            f"{free / _GB:.1f} GB are free"
        )
    with notes.status("loading the model and its copy"):
        quality = WeightQuality(
            Reading(directory, "auto"),
            {_COPY: Reading(copy, "auto")},
            num_threads=usable_cores(),
            max_tokens=max(len(text.token_ids) for text in texts),
        )
    total = ScoreQuality()
    with case_progress(len(texts), notes) as start:
        for number, text in enumerate(texts, 1):
            start(f"text {number}")
            total += quality.compare(text)[_COPY]
    return total
