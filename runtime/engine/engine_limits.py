"""What one leader takes on, and why it refuses a request."""

from dataclasses import dataclass

from parallel.messages import Submit
from runtime.errors import ConfigError
from runtime.models.tokenizer import Tokenizer
from runtime.rank.page_ledger import SlotLedger

_MAX_LOGPROBS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Limits of one leader."""

    vocab_size: int
    max_positions: int
    """Longest sequence the target takes, in tokens."""
    max_batch: int = 16
    """Sequences decoded at once; more wait in order."""
    prefill_chunk: int = 256
    """Prompt tokens a round processes beside the decoding sequences."""
    eos_ids: frozenset[int] = frozenset()
    heartbeat_s: float = 2.0
    """How often an idle leader lets its followers hear of it."""


def problem_of(
    submit: Submit, config: EngineConfig, ledger: SlotLedger, tokenizer: Tokenizer | None
) -> str | None:
    """Return why a request cannot be served, or None.

    Args:
        submit: the request.
        config: the leader's limits.
        ledger: its cache.
        tokenizer: finds stop strings; a virtual target has none.
    """
    num_prompt, num_final = len(submit.prompt_ids), len(submit.output_ids)
    if num_prompt == 0:
        return "the prompt has no tokens"
    if submit.max_tokens < 1:
        return f"`max_tokens` is {submit.max_tokens}: ask for at least 1"
    tokens = (*submit.prompt_ids, *submit.output_ids)
    if not all(0 <= token < config.vocab_size for token in tokens):
        return f"a prompt token lies outside the vocabulary of {config.vocab_size}"
    if num_final > submit.max_tokens:
        return f"{num_final} tokens are final, `max_tokens` is {submit.max_tokens}"
    if num_prompt >= config.max_positions:
        return (
            f"the prompt has {num_prompt} tokens, the model's context holds "
            f"{config.max_positions}: shorten the prompt"
        )
    capacity = min(num_prompt + submit.max_tokens, config.max_positions)
    if not ledger.can_ever_fit(capacity):
        return (
            f"prompt and output need {capacity} tokens of cache, it holds "
            f"{ledger.capacity}: raise `cache_tokens` or lower `max_tokens`"
        )
    if submit.stop:
        if tokenizer is None:
            return "stop strings need a tokenizer, which a virtual target does not have"
        try:
            tokenizer.check_stops(submit.stop)
        except ConfigError as error:
            return str(error)
    if submit.num_logprobs is not None and submit.num_logprobs > _MAX_LOGPROBS:
        return f"`logprobs` is {submit.num_logprobs}: at most {_MAX_LOGPROBS} are reported"
    return None
