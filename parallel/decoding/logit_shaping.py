"""Transforms of logits that come before temperature: biases, held-back ends, penalties.

The order is transformers' where it has them: bias, ends, repetition penalty; then presence and
frequency penalties as OpenAI defines them. Each is a function of the logits, of the tokens before
the position (own-prefix rule) and of the position, so that every verifier keeps the distribution.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from parallel.decoding.types import SamplingParams


def shaped(
    logits: NDArray[np.float32], params: SamplingParams, history: Sequence[int], position: int
) -> NDArray[np.float32]:
    """Return the logits that temperature and cutoffs apply to; a copy.

    Args:
        logits: [vocab_size], of the whole vocabulary.
        params: its biases, ends and penalties are read.
        history: the prompt and the output before the position; read only by penalties.
        position: index of the next token in the output: that many tokens of the history are output.

    Raises:
        ValueError: no token is left.
    """
    found = logits.copy()
    for token, bias in params.logit_bias:
        if token < len(found):  # a drafter may know fewer tokens
            found[token] += np.float32(bias)
    if position < params.min_tokens:
        found[[token for token in params.end_ids if token < len(found)]] = -np.inf
        if not np.isfinite(found.max()):
            raise ValueError("every token ends the output, which `min_tokens` forbids")
    if params.repetition_penalty != 1:
        seen = np.unique(np.asarray(history, dtype=np.int64))
        penalty = np.float32(params.repetition_penalty)
        old = found[seen]
        found[seen] = np.where(old < 0, old * penalty, old / penalty)
    if params.presence_penalty or params.frequency_penalty:
        output = np.asarray(history[len(history) - position :], dtype=np.int64)
        ids, counts = np.unique(output, return_counts=True)
        found[ids] -= np.float32(params.presence_penalty)
        found[ids] -= counts.astype(np.float32) * np.float32(params.frequency_penalty)
    return found
