"""Options of the draft verbs."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cluster.options.generate_options import PromptOptions
from cluster.options.model_options import ModelOptions
from cluster.options.schema import (
    InputDirectory,
    InputFile,
    NewDirectory,
    NotNegative,
    OutputDirectory,
    OutputFile,
    Picture,
    Positive,
    Repeated,
    Share,
)
from parallel.decoding.types import DecodeMode
from runtime.checking.tables import Range, Unset

_LearningRate = Annotated[float, Range(above=0, below=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftTrainOptions:
    """Distill a small drafter from the answers of a target to prompts."""

    models: ModelOptions = ModelOptions(max_batch=32)
    out: OutputDirectory
    """Directory of the drafter; OUT.work holds the run."""
    prompts: Annotated[tuple[InputFile, ...], Repeated()] = ()
    """A .jsonl file of prompts that the target answers; repeatable."""
    free_prompts: NotNegative = 0
    """Prompts that the target writes itself, in addition to those of the files."""
    num_prompts: Annotated[int | None, Range(least=1), Unset("all")] = None
    """Prompts to use of each file, the first ones."""
    chat: bool = True
    """Wrap prompts in the model's chat template."""
    max_tokens: Positive = 224
    """Longest answer, in tokens."""
    layers: Positive = 2
    """Layers of the drafter."""
    init_layers: str | None = None
    """Target layers to start from, as 0,29; evenly spread by default."""
    head_vocab: Positive = 8192
    """Tokens that it can draft: the most frequent ones of the target's answers."""
    train_head: bool = True
    """Train a head of its own, not the target's embedding rows."""
    steps: Positive = 2000
    """Optimizer steps."""
    batch_tokens: Positive = 4096
    """Tokens of a step."""
    learning_rate: _LearningRate = 1e-3
    """Peak learning rate."""
    divergence: Literal["forward-kl", "reverse-kl", "total-variation"] = "forward-kl"
    """Loss between drafter and target; the last quarter of the steps uses total variation."""
    on_policy: Share = 0.0
    """Share of the steps that learn from the drafter's own drafts, scored by the target
    (DistillSpec). Such a step takes several times as long."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products."""
    seed: NotNegative = 0
    """Random seed of sampling, order and questions."""
    resume: bool = False
    """Resume the run in OUT.work."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftFollowOptions:
    """Continue training a drafter with the traffic that a server keeps, while it serves."""

    models: ModelOptions = ModelOptions(max_batch=32)
    traffic: InputDirectory
    """Directory that serve writes its traffic to."""
    out: OutputDirectory
    """Directory of the trained drafter to improve."""
    rounds: Annotated[int | None, Range(least=1), Unset("unlimited")] = None
    """Rounds of training; unlimited runs until interrupted."""
    round_steps: Positive = 20
    """Optimizer steps of a round."""
    window: Annotated[int, Range(least=16)] = 256
    """Latest answers to learn from."""
    focus: Share = 0.5
    """How little accepted tokens count."""
    batch_tokens: Positive = 4096
    """Tokens of a step."""
    learning_rate: _LearningRate = 3e-4
    """Learning rate; lower than from scratch, because a round has few answers."""
    seed: NotNegative = 0
    """Random seed."""
    json: bool = False
    """Print JSON, one object a round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftSkipOptions:
    """Search for the layers that a target should keep to draft for itself, without training."""

    models: ModelOptions = ModelOptions(max_batch=8)
    prompts: InputFile
    """A .jsonl file of prompts to measure on."""
    num_prompts: Positive = 8
    """Prompts to use, the first ones."""
    chat: bool = True
    """Wrap prompts in the model's chat template."""
    max_tokens: Positive = 64
    """Longest answer, in tokens."""
    trials: Positive = 100
    """Sets of layers to try."""
    seed: NotNegative = 0
    """Random seed of sampling and of the search."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftIndexOptions:
    """Sort texts into a store that a look-up drafter copies from."""

    files: tuple[InputFile, ...]
    """Texts: .txt files, or .jsonl with text, prompt and answer fields."""
    target: str
    """The model whose tokens the store holds."""
    out: NewDirectory
    """Directory of the store."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftEvalOptions:
    """Compare drafters: acceptance by position and category, cost, predicted and measured speed-up.

    Each prompt is decoded without and with the drafter, one right after the other.
    """

    drafters: tuple[str, ...]
    """Values of --drafter: directories, lookup, ngram, ..."""
    models: ModelOptions = ModelOptions(prefix_cache=False, max_batch=1)
    input: PromptOptions = PromptOptions(chat=True)
    mode: DecodeMode = DecodeMode.SPECULATIVE
    """How the target decodes: a fixed mode that drafts."""
    draft_length: Positive = 5
    """Draft tokens in a round."""
    max_tokens: Positive = 128
    """Tokens generated for each prompt."""
    temperature: Annotated[float, Range(least=0)] = 0.0
    """Sampling temperature; 0 is greedy."""
    seed: NotNegative = 0
    """Random seed."""
    plot: Picture | None = None
    """Chart of the comparison to write."""
    keep: OutputFile | None = None
    """File that keeps each measurement, from which the same command resumes."""
    json: bool = False
    """Print JSON."""
