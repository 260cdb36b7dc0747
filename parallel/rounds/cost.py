"""What a round costs and yields when each draft token is right with probability alpha.

Draft tokens are right independently of each other. The formulas of a mode are its policy's
(`parallel/decoding/modes/`).
"""

from collections.abc import Callable

from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.types import DecodeMode


def expected_tokens(mode: DecodeMode, *, alpha: float, draft_length: int) -> float:
    """Return the tokens a round commits in the long run."""
    _check(alpha, draft_length)
    if draft_length == 0:
        return 1.0
    return policy_of(mode).expected_tokens(alpha, draft_length)


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
        draft_length: draft tokens requested each round.
        target_s: seconds of a target forward that scores k positions.
        draft_s: seconds of drafting k tokens, the exchange included.
    """
    _check(alpha, draft_length)
    if draft_length == 0:
        return target_s(1)
    return policy_of(mode).round_seconds(alpha, draft_length, target_s, draft_s)


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


def _check(alpha: float, draft_length: int) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}: a probability is between 0 and 1")
    if draft_length < 0:
        raise ValueError(f"draft_length is {draft_length}: it must be at least 0")
