"""From prompts and options to the requests a driver submits."""

import math
from collections.abc import Sequence

from cluster.deploy.target_plan import PlannedModel
from cluster.options.generate_options import ConstraintOptions, DecodeOptions, PromptOptions
from parallel.decoding.rng import request_key
from parallel.decoding.types import ConstraintSpec, SamplingParams
from parallel.messages import Submit
from runtime.checking.constraint_fields import constraint_of
from runtime.checking.prompt_files import PromptRecord, read_prompts
from runtime.checking.prompt_value import check_prompt_length, token_ids
from runtime.checking.values import text
from runtime.errors import ConfigError
from runtime.files.documents import read_text

_VIRTUAL_PROMPTS = 8


def read_constraint(options: ConstraintOptions) -> ConstraintSpec | None:
    """Return the constraint that options name; reads its file.

    Raises:
        ConfigError: there are several, or one cannot be read.
    """
    schema, grammar = options.json_schema, options.grammar
    return constraint_of(
        json_schema=None if schema is None else read_text(schema, kind="JSON schema"),
        json_object=options.json_object,
        regex=options.regex,
        grammar=None if grammar is None else read_text(grammar, kind="grammar"),
        choice=options.choice,
        monitor=options.monitor,
        align=options.align,
        close=options.close,
    )


def make_submits(
    prompts: PromptOptions,
    decode: DecodeOptions,
    target: PlannedModel,
    constraint: ConstraintSpec | None = None,
) -> list[Submit]:
    """Tokenize the prompts and check them against the target.

    Raises:
        ConfigError: an option is out of range, or a prompt is empty or too long.
    """
    if constraint is not None and decode.ignore_eos:
        raise ConfigError(
            "`ignore_eos` continues after the end of an output, which a constraint sets: leave out "
            "one of them"
        )
    sampling = _sampling(decode, constraint)
    if target.tokenizer is not None:
        target.tokenizer.check_stops(decode.stop)
    submits = []
    for index, prompt_ids in enumerate(_prompt_ids(prompts, target)):
        submits.append(
            Submit(
                request=index,
                prompt_ids=prompt_ids,
                sampling=sampling,
                mode=decode.mode,
                verifier=decode.verifier,
                max_tokens=decode.max_tokens,
                draft_length=decode.draft_length,
                ignore_eos=decode.ignore_eos,
                stop=decode.stop,
                stop_token_ids=decode.stop_token_ids,
            )
        )
    return submits


def cache_tokens(submits: list[Submit], max_batch: int, max_positions: int) -> int:
    """Return the cache that the `max_batch` largest requests need together."""
    sizes = sorted(
        (min(len(s.prompt_ids) + s.max_tokens, max_positions) for s in submits), reverse=True
    )
    page = 32  # each sequence rounds up to whole pages
    return sum(size + page for size in sizes[:max_batch])


def _sampling(decode: DecodeOptions, constraint: ConstraintSpec | None) -> SamplingParams:
    try:
        return SamplingParams(
            temperature=decode.temperature,
            top_k=decode.top_k,
            top_p=decode.top_p,
            min_p=decode.min_p,
            repetition_penalty=decode.repetition_penalty,
            presence_penalty=decode.presence_penalty,
            frequency_penalty=decode.frequency_penalty,
            logit_bias=_biases(decode.logit_bias),
            min_tokens=decode.min_tokens,
            constraint=constraint,
            seed=decode.seed,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _biases(given: Sequence[str]) -> tuple[tuple[int, float], ...]:
    """Return the biases that TOKEN=BIAS texts name, by token."""
    found: dict[int, float] = {}
    for number, one in enumerate(given):
        token, _, bias = one.partition("=")
        try:
            value = float(bias)
        except ValueError:
            value = math.nan
        if not (token.isascii() and token.isdecimal()) or not math.isfinite(value):
            raise ConfigError(f"`logit_bias`[{number}] is {one!r}: write TOKEN=BIAS, as 15=-2.5")
        if int(token) in found:
            raise ConfigError(f"`logit_bias` has the token {token} twice: remove one")
        found[int(token)] = value
    return tuple(sorted(found.items()))


def _prompt_ids(prompts: PromptOptions, target: PlannedModel) -> list[tuple[int, ...]]:
    if target.tokenizer is None:
        num_prompts = prompts.num_prompts or _VIRTUAL_PROMPTS
        return [virtual_prompt(index, target.vocab_size) for index in range(num_prompts)]
    if (prompts.prompt is None) == (prompts.prompts is None):
        raise ConfigError("give either `prompt` or `prompts`")
    if prompts.prompts is not None:
        records = read_prompts(prompts.prompts, limit=prompts.num_prompts)
    else:
        checked = text(prompts.prompt, "`prompt`")
        records = [PromptRecord(index=0, text=checked, where="`prompt`")]
    found = []
    for record in records:
        ids = encode_record(record, target, chat=prompts.chat)
        check_prompt_length(
            len(ids), prompt=record.where, model=target.name, max_positions=target.max_positions
        )
        found.append(ids)
    return found


def virtual_prompt(index: int, vocab_size: int) -> tuple[int, ...]:
    """Return the tokens of a virtual device's prompt."""
    return tuple(request_key((index,), sample_index=i) % vocab_size for i in range(16))


def encode_record(record: PromptRecord, target: PlannedModel, *, chat: bool) -> tuple[int, ...]:
    """Return a prompt's tokens.

    Args:
        record: the prompt.
        target: the model that reads it; it has a tokenizer.
        chat: make a conversation of plain text.

    Raises:
        ConfigError: it has no tokens, or one that the model has no embedding for, or the chat
            template rejects it; names the line.
    """
    assert target.tokenizer is not None
    turns = record.messages
    if turns is None and chat:
        turns = ({"role": "user", "content": record.text or ""},)
    try:
        found = (
            target.tokenizer.encode(record.text or "")
            if turns is None
            else target.tokenizer.encode_chat(turns)
        )
        ids = token_ids(found, "token", vocab_size=target.vocab_size, may_be_empty=True)
    except ConfigError as error:
        raise ConfigError(f"{record.where}: {error}") from error
    if not ids:
        raise ConfigError(f"{record.where} has no tokens: write at least one word")
    return ids
