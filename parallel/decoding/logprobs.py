"""Log probabilities of output tokens: the target's own, whatever was drafted.

They are taken from the distribution before temperature, cuts and penalties, at the row that decided
each token, so speculation leaves them as they are.
"""

from collections.abc import Sequence

from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import TokenLogprobs


def token_logprobs(
    rows: Sequence[ScoreRow], path: Sequence[int], token_ids: Sequence[int], num_top: int
) -> tuple[TokenLogprobs, ...]:
    """Return the log probabilities of a round's tokens.

    Args:
        rows: as the verifier had them, each over the whole vocabulary.
        path: the accepted nodes, root first.
        token_ids: what was committed: the path's tokens, then the emitted one if there is one.
        num_top: likeliest tokens to name at each place.
    """
    found = []
    for node, token in zip((-1, *path), token_ids, strict=False):
        logits = rows[node + 1].logits
        assert rows[node + 1].ids is None, "log probabilities need whole rows"
        normalizer = logits.logsumexp(0)
        best = logits.topk(num_top) if num_top else None
        found.append(
            TokenLogprobs(
                logprob=float(logits[token] - normalizer),
                top_ids=() if best is None else tuple(best.indices.tolist()),
                top_logprobs=() if best is None else tuple((best.values - normalizer).tolist()),
            )
        )
    return tuple(found)
