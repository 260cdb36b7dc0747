"""What one leader takes on, and why it rejects a request."""

from collections.abc import Container
from dataclasses import dataclass

from parallel.messages import Submit
from runtime.checking.prompt_value import check_prompt_length
from runtime.checking.sampling_fields import MAX_LOGPROBS
from runtime.errors import ConfigError, InvalidValue
from runtime.models.tokenizer import Tokenizer
from runtime.rank.page_ledger import SlotLedger


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Limits of one leader."""

    vocab_size: int
    max_positions: int
    """Longest sequence the target takes, in tokens."""
    max_batch: int
    """Sequences decoded at once; more wait in order."""
    prefill_chunk: int = 256
    """Prompt tokens that a round processes in addition to the decoding sequences."""
    eos_ids: frozenset[int] = frozenset()
    heartbeat_s: float = 2.0
    """Seconds between the heartbeats of an idle leader to its followers."""

    def end_ids_of(self, submit: Submit) -> frozenset[int]:
        """Return the tokens that end a request's output."""
        ends = frozenset[int]() if submit.ignore_eos else self.eos_ids
        return ends.union(submit.stop_token_ids)


def problem_of(
    submit: Submit,
    config: EngineConfig,
    ledger: SlotLedger,
    tokenizer: Tokenizer | None,
    *,
    takes_constraints: bool = False,
    adapters: Container[str] = (),
) -> str | None:
    """Return why a request cannot be served, or None.

    Args:
        submit: the request.
        config: the leader's limits.
        ledger: its cache.
        tokenizer: finds stop strings; a virtual target has none.
        takes_constraints: whether it can compile constraints.
        adapters: the names of those that its target holds.
    """
    if submit.adapter and submit.adapter not in adapters:
        return (
            f"the adapter {submit.adapter} is not loaded: add it again, with the numbers that it "
            "had when the request began"
        )
    try:
        _check(submit, config, ledger, tokenizer)
        if submit.sampling.constraint is not None:
            _check_constraint(submit, config, takes_constraints=takes_constraints)
    except ConfigError as error:
        return str(error)
    return None


def _check(
    submit: Submit, config: EngineConfig, ledger: SlotLedger, tokenizer: Tokenizer | None
) -> None:
    """Raise InvalidValue or ConfigError unless the leader can serve a request."""
    num_prompt, num_final = len(submit.prompt_ids), len(submit.output_ids)
    check_prompt_length(
        num_prompt, prompt="the prompt", model="the model", max_positions=config.max_positions
    )
    if submit.max_tokens < 1:
        raise InvalidValue(f"`max_tokens` is {submit.max_tokens}: ask for at least 1")
    tokens = (*submit.prompt_ids, *submit.output_ids)
    if not all(0 <= token < config.vocab_size for token in tokens):
        raise InvalidValue(f"a prompt token lies outside the vocabulary of {config.vocab_size}")
    for name, named in (
        ("stop_token_ids", submit.stop_token_ids),
        ("logit_bias", [token for token, _ in submit.sampling.logit_bias]),
    ):
        unknown = [token for token in named if not 0 <= token < config.vocab_size]
        if unknown:
            raise InvalidValue(
                f"`{name}` has the token {unknown[0]}: token ids are between 0 and "
                f"{config.vocab_size - 1}"
            )
    if num_final > submit.max_tokens:
        raise InvalidValue(f"{num_final} tokens are final, `max_tokens` is {submit.max_tokens}")
    capacity = min(num_prompt + submit.max_tokens, config.max_positions)
    if not ledger.can_ever_fit(capacity):
        raise InvalidValue(
            f"prompt and output need {capacity} tokens of cache, it holds {ledger.capacity}: raise "
            "`cache_tokens` or lower `max_tokens`"
        )
    if submit.stop:
        if tokenizer is None:
            raise InvalidValue(
                "stop strings need a tokenizer, which a virtual target does not have"
            )
        tokenizer.check_stops(submit.stop)
    if submit.num_logprobs is not None and submit.num_logprobs > MAX_LOGPROBS:
        raise InvalidValue(
            f"`logprobs` is {submit.num_logprobs}: at most {MAX_LOGPROBS} are reported"
        )


def _check_constraint(submit: Submit, config: EngineConfig, *, takes_constraints: bool) -> None:
    """Raise InvalidValue unless the output of a request can end under its constraint."""
    if not takes_constraints:
        raise InvalidValue("a constraint needs a tokenizer, which a virtual target does not have")
    if submit.ignore_eos:
        raise InvalidValue(
            "`ignore_eos` continues after the end of an output, which a constraint sets: leave out "
            "one of them"
        )
    if not config.end_ids_of(submit):
        raise InvalidValue(
            "the model has no end token, so that no output could end under a constraint: name one "
            "in `stop_token_ids`"
        )
