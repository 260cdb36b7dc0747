"""What a round costs and yields when each draft token is right with probability alpha, independently.

PEARL: arXiv 2408.11850, section 4 (two modes, one Markov chain). Draft-then-verify: arXiv 2211.17192, section 3.
"""

from collections.abc import Callable

from parallel.decoding.types import DecodeMode


def expected_tokens(mode: DecodeMode, *, alpha: float, draft_length: int) -> float:
    """Return the tokens a round commits in the long run.

    A pre-verify round of PEARL yields one token and leads to post-verify with probability alpha; a
    post-verify round yields (1 - alpha^g) / (1 - alpha) and leads back with probability 1 - alpha^g.
    """
    _check(alpha, draft_length)
    if mode is DecodeMode.AUTOREGRESSIVE or draft_length == 0:
        return 1.0
    if mode is DecodeMode.SPECULATIVE:
        return _geometric(alpha, draft_length + 1)
    if draft_length == 1:
        return 1.0  # each block is its own first token: nothing ever stays in flight
    all_accepted = alpha**draft_length
    post = _geometric(alpha, draft_length)
    leaves_post = 1 - all_accepted
    if alpha == 0 or leaves_post == 0:
        return 1.0 if alpha == 0 else post
    share_post = alpha / (alpha + leaves_post)
    return (1 - share_post) + share_post * post


def round_seconds(
    mode: DecodeMode,
    *,
    draft_length: int,
    target_s: Callable[[int], float],
    draft_s: Callable[[int], float],
) -> float:
    """Return the seconds a round takes.

    Args:
        mode: how drafting and verification are arranged.
        draft_length: draft tokens asked for each round.
        target_s: seconds of a target forward that scores k positions.
        draft_s: seconds of drafting k tokens, the exchange included.
    """
    if mode is DecodeMode.AUTOREGRESSIVE or draft_length == 0:
        return target_s(1)
    if mode is DecodeMode.SPECULATIVE:
        return draft_s(draft_length) + target_s(draft_length + 1)
    return max(draft_s(draft_length), target_s(draft_length))


def throughput(
    mode: DecodeMode,
    *,
    alpha: float,
    draft_length: int,
    target_s: Callable[[int], float],
    draft_s: Callable[[int], float],
) -> float:
    """Return the expected tokens per second of one sequence; arguments as of the parts."""
    tokens = expected_tokens(mode, alpha=alpha, draft_length=draft_length)
    seconds = round_seconds(mode, draft_length=draft_length, target_s=target_s, draft_s=draft_s)
    return tokens / seconds


def _geometric(alpha: float, terms: int) -> float:
    """Return 1 + alpha + ... + alpha^(terms - 1)."""
    return float(terms) if alpha == 1 else (1 - alpha**terms) / (1 - alpha)


def _check(alpha: float, draft_length: int) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}: a probability is between 0 and 1")
    if draft_length < 0:
        raise ValueError(f"draft_length is {draft_length}: it must be at least 0")
