"""Options of the draft verbs."""

from dataclasses import dataclass
from pathlib import Path

from cluster.options.generate_options import PromptOptions
from cluster.options.model_options import ModelOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftTrainOptions:
    """`paceline draft train`."""

    models: ModelOptions
    out: Path
    prompts: tuple[Path, ...]
    free_prompts: int
    """Prompts that the target writes itself."""
    num_prompts: int | None
    """Take only the first ones of each file."""
    chat: bool
    max_tokens: int
    layers: int
    init_layers: str | None
    """Target layers to start from; None spreads them evenly."""
    head_vocab: int
    train_head: bool
    steps: int
    batch_tokens: int
    learning_rate: float
    divergence: str
    on_policy: float
    precision: str
    seed: int
    resume: bool
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftFollowOptions:
    """`paceline draft train --follow`."""

    models: ModelOptions
    follow: Path
    """Where a server writes its traffic."""
    out: Path
    rounds: int
    """0 continues until interrupted."""
    round_steps: int
    window: int
    focus: float
    batch_tokens: int
    learning_rate: float | None
    seed: int
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftSkipOptions:
    """`paceline draft skip`."""

    models: ModelOptions
    prompts: Path
    num_prompts: int
    chat: bool
    max_tokens: int
    trials: int
    seed: int
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftIndexOptions:
    """`paceline draft index`."""

    target: str
    files: tuple[Path, ...]
    out: Path
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftEvalOptions:
    """`paceline draft eval`."""

    models: ModelOptions
    drafters: tuple[str, ...]
    prompts: PromptOptions
    mode: str
    draft_length: int
    max_tokens: int
    temperature: float
    seed: int
    plot: Path | None
    """Where the picture goes; None draws none."""
    keep: Path | None = None
    """Where figures are kept as they come, to continue from."""
    json: bool = False
