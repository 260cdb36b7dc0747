"""What a round costs and yields when each draft token is right with probability alpha.

Draft tokens are right independently of each other. PEARL: arXiv 2408.11850, section 4 (two stages,
one Markov chain). Draft-then-verify: Leviathan et al., arXiv 2211.17192, section 3.
"""

from collections.abc import Callable

from parallel.decoding.types import DecodeMode


def expected_tokens(mode: DecodeMode, *, alpha: float, draft_length: int) -> float:
    """Return the tokens a round commits in the long run.

    A pre-verify round of PEARL yields one token; a post-verify round yields
    1 + alpha + ... + alpha^(draft_length - 1).
    """
    _check(alpha, draft_length)
    if mode is DecodeMode.AUTOREGRESSIVE or draft_length == 0:
        return 1.0
    if mode is DecodeMode.SPECULATIVE:
        return _geometric(alpha, draft_length + 1)
    share_post = post_verify_share(alpha, draft_length)
    return (1 - share_post) + share_post * _geometric(alpha, draft_length)


def post_verify_share(alpha: float, draft_length: int) -> float:
    """Return the share of PEARL's rounds that are post-verify, in the long run.

    Pre-verify leads to post-verify with probability alpha, and post-verify back with probability
    1 - alpha^draft_length.
    """
    _check(alpha, draft_length)
    if draft_length <= 1 or alpha == 0:
        return 0.0  # a block of one is its own first token: nothing ever stays in flight
    return alpha / (alpha + 1 - alpha**draft_length)


def round_seconds(
    mode: DecodeMode,
    *,
    alpha: float,
    draft_length: int,
    target_s: Callable[[int], float],
    draft_s: Callable[[int], float],
) -> float:
    """Return the seconds a round takes in the long run.

    Args:
        mode: how drafting and verification are arranged.
        alpha: probability that a draft token is right.
        draft_length: draft tokens asked for each round.
        target_s: seconds of a target forward that scores k positions.
        draft_s: seconds of drafting k tokens, the exchange included.
    """
    _check(alpha, draft_length)
    if mode is DecodeMode.AUTOREGRESSIVE or draft_length == 0:
        return target_s(1)
    drafting_s = draft_s(draft_length)
    if mode is DecodeMode.SPECULATIVE:
        return drafting_s + target_s(draft_length + 1)
    share_post = post_verify_share(alpha, draft_length)
    pre_s, post_s = max(drafting_s, target_s(1)), max(drafting_s, target_s(draft_length))
    return (1 - share_post) * pre_s + share_post * post_s


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
    seconds = round_seconds(
        mode, alpha=alpha, draft_length=draft_length, target_s=target_s, draft_s=draft_s
    )
    return tokens / seconds


def _geometric(alpha: float, terms: int) -> float:
    """Return 1 + alpha + ... + alpha^(terms - 1)."""
    return float(terms) if alpha == 1 else (1 - alpha**terms) / (1 - alpha)


def _check(alpha: float, draft_length: int) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}: a probability is between 0 and 1")
    if draft_length < 0:
        raise ValueError(f"draft_length is {draft_length}: it must be at least 0")
