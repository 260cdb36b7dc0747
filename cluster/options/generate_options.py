"""Options of `paceline generate`, and of all verbs that decode prompts."""

from dataclasses import dataclass
from typing import Annotated

from cluster.options.model_options import ModelOptions
from cluster.options.schema import InputFile, NotNegative, Positive, Repeated, Share
from parallel.decoding.types import DecodeMode, VerifierKind
from runtime.checking.tables import Range, Unset


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOptions:
    """How tokens are chosen and when a request ends."""

    mode: DecodeMode = DecodeMode.AUTO
    """How the target decodes; auto is what suits the drafter."""
    verifier: VerifierKind = VerifierKind.MATCH
    """How drafts are verified; both keep the target's distribution exactly. With match, tokens
    depend on target and seed alone; rejection accepts more, and tokens depend on the drafts too."""
    draft_length: Annotated[int | None, Range(least=0), Unset("auto")] = None
    """Draft tokens in a round; auto chooses from measured speed."""
    max_tokens: Positive = 128
    """Longest output of a prompt, in tokens; the end of the context ends it sooner."""
    temperature: Annotated[float, Range(least=0)] = 0.0
    """Sampling temperature; 0 is greedy."""
    top_k: NotNegative = 0
    """Sample among the k most likely tokens; 0 among all."""
    top_p: Share = 1.0
    """Sample among the most likely tokens that reach this probability together."""
    min_p: Share = 0.0
    """Drop tokens less likely than this share of the most likely one."""
    repetition_penalty: Annotated[float, Range(above=0)] = 1.0
    """Divides the scores of tokens that occurred; 1 changes none."""
    presence_penalty: Annotated[float, Range(least=-2, most=2)] = 0.0
    """Subtracted from the scores of tokens that the output has."""
    frequency_penalty: Annotated[float, Range(least=-2, most=2)] = 0.0
    """Subtracted from a token's score for each time that the output has it."""
    logit_bias: tuple[str, ...] = ()
    """Added to the scores of tokens: TOKEN=BIAS, such as 15=-2.5; between -100 and 100."""
    seed: NotNegative = 0
    """Random seed. The same seed gives the same tokens in every mode and batch."""
    ignore_eos: bool = False
    """Continue after the end token."""
    min_tokens: NotNegative = 0
    """No end token is drawn before the output has so many tokens."""
    stop_token_ids: tuple[NotNegative, ...] = ()
    """Tokens that end the output, in addition to the model's end tokens."""
    stop: Annotated[tuple[str, ...], Repeated()] = ()
    """End before this string; repeatable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """Where prompts come from: one of `prompt` and `prompts`."""

    prompt: str | None = None
    """The prompt itself."""
    prompts: InputFile | None = None
    """A .jsonl file of prompts. A line has prompt, text, question, turns or messages."""
    num_prompts: Positive | None = None
    """Only the first prompts of the file."""
    chat: bool = False
    """Wrap prompts in the model's chat template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintOptions:
    """What every output must satisfy; at most one of these."""

    json_schema: InputFile | None = None
    """A file with a JSON schema: the output conforms to it."""
    json_object: bool = False
    """The output is a JSON object."""
    regex: str | None = None
    """A regular expression in Rust's syntax, which the whole output matches."""
    grammar: InputFile | None = None
    """A file with a Lark grammar, whose rule start derives the output."""
    choice: Annotated[tuple[str, ...], Repeated()] = ()
    """The output is one of these texts; repeatable."""
    monitor: str | None = None
    """module:function of a Python function that names the words that may follow a text."""
    align: bool = False
    """Samples follow the model's own distribution given that the output is legal."""
    close: bool = False
    """Complete the output within `max_tokens`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """Generate text, drafting and verifying at the same time."""

    models: ModelOptions = ModelOptions()
    decode: DecodeOptions = DecodeOptions()
    input: PromptOptions = PromptOptions()
    constraint: ConstraintOptions = ConstraintOptions()
    json: bool = False
    """Print JSON, one object a line."""
