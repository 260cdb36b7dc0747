"""The learning rate of each step: a warm-up, and then a schedule."""

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine", "cosine-restarts", "inverse-sqrt"]
_NO_WARMUP_STEPS = 10_000
"""Steps in which "inverse-sqrt" without a warm-up falls to 1 / sqrt(2), as in transformers."""


def learning_rate(
    step: int,
    *,
    num_steps: int,
    peak: float,
    warmup: float,
    schedule: Schedule,
    cycles: int = 1,
) -> float:
    """Return the learning rate of a step.

    Args:
        step: number of the step, from 0.
        num_steps: steps of the whole run.
        peak: the highest rate.
        warmup: share of the steps in which the rate rises to the peak.
        schedule: what follows the warm-up: "constant"; "linear" and "cosine" fall to 0 at the end;
            "cosine-restarts" does so in each of several cycles (Loshchilov and Hutter, arXiv
            1608.03983, with cycles of one length); "inverse-sqrt" falls with the root of the step
            (Vaswani et al., arXiv 1706.03762).
        cycles: of "cosine-restarts".
    """
    rising = math.ceil(num_steps * warmup)
    if step < rising:
        return peak * (step + 1) / rising
    passed = (step - rising) / max(num_steps - rising, 1)
    match schedule:
        case "constant":
            return peak
        case "linear":
            return peak * (1 - passed)
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * passed))
        case "cosine-restarts":
            return peak * 0.5 * (1 + math.cos(math.pi * (cycles * passed % 1.0)))
        case "inverse-sqrt":
            scale = rising or _NO_WARMUP_STEPS
            return peak / math.sqrt((step - rising + scale) / scale)
