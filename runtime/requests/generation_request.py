"""A request for generation as every wire reads it, and the `Submit`s that engines receive."""

from dataclasses import dataclass, replace

from parallel.decoding.types import DecodeMode
from parallel.messages import Submit
from runtime.checking.prompt_value import check_prompt_length
from runtime.checking.sampling_fields import Sampling
from runtime.errors import InvalidValue
from runtime.requests.prompts import Prompt, TextPrompt, prompt_ids
from runtime.requests.served_model import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What a client asks for."""

    prompts: tuple[Prompt, ...]
    """Each gets as many samples as `sampling` says."""
    sampling: Sampling
    """Checked."""
    resume_from: tuple[int, ...]
    """One for each sample of each prompt: tokens that the client already has."""
    timeout_s: float | None = None
    """Seconds that the answer may take from the request's arrival on."""

    def submits(self, model: ServedModel, *, seed: int) -> tuple[Submit, ...]:
        """Return what the engine receives, one for each sample of each prompt; tokenizes prompts.

        Args:
            model: the served model.
            seed: for a request without a seed.

        Raises:
            InvalidValue: a value cannot be used; names the field.
            ConfigError: the conversation does not fit the chat template, or an output cannot
                contain a stop string.
        """
        sampling = self.sampling
        model.tokenizer.check_stops(sampling.stop or ())
        _check_vocabulary(sampling, model.vocab_size)
        firsts = [self._submit(prompt, model, seed) for prompt in self.prompts]
        samples = range(sampling.num_samples)
        submits = tuple(replace(first, sample_index=i) for first in firsts for i in samples)
        for submit, start in zip(submits, self.resume_from, strict=True):
            if start > submit.max_tokens:
                raise InvalidValue(
                    f"`resume_from` is {start}, beyond `max_tokens` {submit.max_tokens}"
                )
        return submits

    def _submit(self, prompt: Prompt, model: ServedModel, seed: int) -> Submit:
        """Return the first sample of a prompt."""
        sampling, ids = self.sampling, prompt_ids(prompt, model)
        is_empty = isinstance(prompt, TextPrompt) and not prompt.text
        check_prompt_length(  # a tokenizer may add a start token to an empty text
            0 if is_empty else len(ids),
            prompt="the prompt" if len(self.prompts) == 1 else f"`{prompt.field}`",
            model=model.name,
            max_positions=model.max_positions,
        )
        most = model.default_max_tokens if sampling.max_tokens is None else sampling.max_tokens
        return Submit(
            request=0,
            prompt_ids=ids,
            sampling=sampling.params(seed=seed),
            mode=model.default_mode if sampling.mode is None else DecodeMode(sampling.mode),
            verifier=model.verifier,
            max_tokens=min(most, model.max_positions - len(ids)),
            ignore_eos=sampling.ignore_eos,
            stop=tuple(sampling.stop or ()),
            stop_token_ids=tuple(sampling.stop_token_ids or ()),
            num_logprobs=sampling.logprobs,
            priority=sampling.priority,
        )


def _check_vocabulary(sampling: Sampling, vocab_size: int) -> None:
    """Raise InvalidValue if a field names a token that the model does not have."""
    for name, tokens in (
        ("stop_token_ids", sampling.stop_token_ids),
        ("logit_bias", sampling.logit_bias),
    ):
        unknown = [token for token in tokens or () if token >= vocab_size]
        if unknown:
            raise InvalidValue(
                f"`{name}` has the token {unknown[0]}: token ids are between 0 and {vocab_size - 1}"
            )
