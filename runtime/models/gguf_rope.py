"""Convert the rotary settings of a GGUF file to `rope_parameters` of a configuration.

llama.cpp stores linear and yarn scaling in metadata. Llama 3's scaling is a tensor of divisors of
the frequencies, `rope_freqs.weight`, from which its parameters are recovered.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from parallel.model.model_config import RopeConfig
from parallel.model.rope import inverse_frequencies
from runtime.models.families.fields import Fields

_SCALING = "rope.scaling."
_TOLERANCE = 2e-6
"""The relative error of a frequency; float32 stores divisors to 1e-7."""


def rope_parameters(
    fields: Fields, head_dim: int, context: int, divisors: NDArray[np.float32] | None
) -> dict[str, object]:
    """Return the `rope_parameters` of a file.

    Raises:
        ValueError: llama.cpp would compute something that is not supported.
    """
    theta = fields.number("rope.freq_base", 10000.0)
    kind = fields.get(f"{_SCALING}type") or "linear"
    old = fields.get("rope.scale_linear")
    factor = float(fields.get(f"{_SCALING}factor") or old or 1.0)  # type: ignore[arg-type]
    original = fields.whole(f"{_SCALING}original_context_length", context)
    _reject_others(fields, kind, factor)
    if kind == "none" or factor == 1:
        if divisors is None or np.all(divisors == 1):
            return {"rope_type": "default", "rope_theta": theta}
        return {"rope_theta": theta} | recover_llama3(divisors, theta, head_dim)
    if divisors is not None:
        raise ValueError(f"rope_freqs.weight beside {_SCALING}factor {factor} is not supported")
    scaled: dict[str, object] = {"rope_type": kind, "rope_theta": theta, "factor": factor}
    if kind == "yarn":
        scaled["original_max_position_embeddings"] = original
    return scaled


def _reject_others(fields: Fields, kind: object, factor: float) -> None:
    """Reject unsupported kinds, and settings that change a supported kind."""
    if kind not in ("none", "linear", "yarn"):
        raise ValueError(f"{_SCALING}type is {kind!r}: none, linear and yarn are supported")
    if not 0 < factor < math.inf:
        raise ValueError(f"{_SCALING}factor is {factor}: expected a positive number")
    temperature = 1 + 0.1 * math.log(max(factor, 1.0))
    ext_factor = 1.0 if kind == "yarn" else 0.0
    for name, usual in (
        ("attn_factor", 1.0),
        ("alpha", 0.0),
        ("yarn_ext_factor", ext_factor),
        ("yarn_attn_factor", temperature),  # what llama.cpp uses, whatever the file states
        ("yarn_beta_fast", 32.0),  # as above
        ("yarn_beta_slow", 1.0),
        ("yarn_log_multiplier", 0.0),
    ):
        value = fields.get(f"{_SCALING}{name}")
        if value is not None and not math.isclose(float(value), usual, rel_tol=1e-5):  # type: ignore[arg-type]
            raise ValueError(f"{_SCALING}{name} is {value}: only {usual:.6g} is supported")


def recover_llama3(divisors: NDArray[np.float32], theta: float, head_dim: int) -> dict[str, object]:
    """Return the parameters of Llama 3's scaling that give these divisors.

    Each wave up to `high` turns within the original length keeps its frequency, each below `low`
    turns is divided by `factor`, and between the two 1 / divisor falls linearly in the number of
    turns. So a line through the divisors in between gives the two ends.

    Args:
        divisors: [head_dim / 2].
        theta: the base of the frequencies.
        head_dim: dimensions of a head.

    Raises:
        ValueError: no parameters give them.
    """
    failed = ValueError(
        "rope_freqs.weight holds divisors of frequencies that are not those of Llama 3's scaling"
    )
    if divisors.shape != (head_dim // 2,) or not np.all(np.isfinite(divisors)):
        raise failed
    factor = round(float(divisors.max()), 6)
    if factor <= 1 or divisors.min() < 1:
        raise failed
    plain = RopeConfig(theta=theta)
    turns = inverse_frequencies(plain, head_dim).double().numpy() / (2 * math.pi)
    low, high = _ends(turns, divisors.astype(np.float64), factor)
    if not 0 < low < high:
        raise failed
    original = max(1, round(1 / low))
    expected = inverse_frequencies(plain, head_dim) / torch.from_numpy(divisors.copy())
    for num_digits in (2, 15):  # prefer round numbers, if they fit
        rope = RopeConfig(
            theta=theta,
            kind="llama3",
            factor=factor,
            original_positions=original,
            low_freq_factor=round(low * original, num_digits),
            high_freq_factor=round(high * original, num_digits),
        )
        found = inverse_frequencies(rope, head_dim)
        if torch.allclose(found, expected, rtol=_TOLERANCE, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": rope.low_freq_factor,
                "high_freq_factor": rope.high_freq_factor,
                "original_max_position_embeddings": original,
            }
    raise failed


def _ends(
    turns: NDArray[np.float64], divisors: NDArray[np.float64], factor: float
) -> tuple[float, float]:
    """Return the turns per position at which the blend begins and ends; zeros if there is none.

    With fewer than two divisors between 1 and the factor, several ends give the same divisors; the
    ends are then a factor of 4 apart, as in all published models, if that is possible.
    """
    is_between = (divisors > 1 + 1e-6) & (divisors < factor * (1 - 1e-6))
    shares = (1 / divisors - 1 / factor) / (1 - 1 / factor)
    at, share = turns[is_between], shares[is_between]
    if len(at) > 1:
        slope = (share[0] - share[-1]) / (at[0] - at[-1])
        if slope <= 0:
            return 0.0, 0.0
        low = at[-1] - share[-1] / slope
        return float(low), float(low + 1 / slope)
    below, above = turns[shares <= 1e-6], turns[shares >= 1 - 1e-6]
    lower = float(below.max()) if len(below) else 0.0
    upper = float(above.min()) if len(above) else 1.0  # one turn per position: all waves are longer
    if len(at) == 1:
        here, part = float(at[0]), float(share[0])
        low = here / (1 + 3 * part)
        if not (lower < low and 4 * low < upper):
            lower = max(lower, (here - part * upper) / (1 - part))
            low = (lower + here) / 2
        return low, low + (here - low) / part
    if upper > 4 * lower:
        low = math.sqrt(lower * upper) / 2
        return low, 4 * low
    return lower + (upper - lower) / 3, lower + (upper - lower) * 2 / 3
