"""Read the rotary settings of a config.json, in the spellings of transformers 5 and 4.

transformers 5 has `rope_parameters`; version 4 had `rope_theta` and `rope_scaling`. If both are
given, transformers uses `rope_scaling`; contradictions are rejected.
"""

import math
from collections.abc import Mapping

from parallel.model.model_config import ROPE_KINDS, RopeConfig
from runtime.models.families.fields import Fields

_THETA = 10000.0  # transformers' default
_ORIGINAL = "original_max_position_embeddings"
_BY_KIND: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor", _ORIGINAL}),
    "dynamic": frozenset({"factor", _ORIGINAL}),
    "llama3": frozenset({"factor", _ORIGINAL, "low_freq_factor", "high_freq_factor"}),
    "yarn": frozenset(
        {
            "factor",
            _ORIGINAL,
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
            "finetuned",  # a note of the YaRN authors, without effect
        }
    ),
}
"""The keys of each kind, besides its name, rope_theta and partial_rotary_factor."""


def parse_rope(fields: Fields, positions: int) -> RopeConfig:
    """Return the rotary settings of a configuration.

    Args:
        fields: the fields of config.json.
        positions: its max_position_embeddings.

    Raises:
        ValueError: a kind, key or value is not supported, or two of them contradict each other.
    """
    given = _merged(fields)
    kind = _kind(given)
    scaling = Fields({k: v for k, v in given.items() if k not in ("type", "rope_type")})
    theta = scaling.number("rope_theta")
    if fields.number("partial_rotary_factor", 1.0) != 1 or (
        scaling.number("partial_rotary_factor", 1.0) != 1
    ):
        raise ValueError("partial rotary embeddings (partial_rotary_factor) are not supported")
    original = _original_positions(fields, scaling, kind, positions)
    rope = _of_kind(scaling, kind, theta, original, positions)
    unread = [f"{k} is {v!r}" for k, v in scaling.unread().items() if v is not None]
    if unread:
        raise ValueError(f"{unread[0]} beside rope_type {kind!r}, which does not use it")
    return rope


def context_length(rope: RopeConfig, positions: int) -> int:
    """Return the number of positions that a model supports.

    In published configurations, `max_position_embeddings` is the length before scaling (linear,
    yarn; vLLM reads them so too) or after it (llama3, some yarn). "dynamic" scales with the length
    of the sequence, so cached keys would have to be rotated again at each step: it is exact only up
    to `max_position_embeddings`, where the context ends.
    """
    if rope.kind in ("default", "dynamic"):
        return positions
    if rope.kind == "llama3" and positions > rope.original_positions:
        return positions
    return max(positions, int(rope.original_positions * rope.factor))


def _merged(fields: Fields) -> dict[str, object]:
    """Return the settings that transformers would use, with their rope_theta."""
    scaling, parameters = fields.mapping("rope_scaling"), fields.mapping("rope_parameters")
    for name, group in (("rope_scaling", scaling), ("rope_parameters", parameters)):
        for key, value in group.items():
            if isinstance(value, Mapping):
                raise ValueError(
                    f"{name}.{key} is {value!r}: settings by type of layer are not supported"
                )
    taken = dict(scaling or parameters)
    top = fields.get("rope_theta")
    taken.setdefault("rope_theta", _THETA if top is None else top)
    if top is not None and taken["rope_theta"] != top:
        raise ValueError(f"rope_theta is {top} and {taken['rope_theta']} in rope_parameters")
    if scaling:
        ours = taken | {"rope_type": _kind(taken), "type": _kind(taken)}
        for key, value in parameters.items():
            is_default = key in ("type", "rope_type") and value == "default"
            if value is not None and not is_default and ours.get(key) != value:
                raise ValueError(
                    f"rope_parameters.{key} is {value!r}, but rope_scaling comes to "
                    f"{ours.get(key)!r}: remove one of the two"
                )
    return taken


def _kind(given: Mapping[str, object]) -> str:
    names = [given[key] for key in ("rope_type", "type") if given.get(key) is not None]
    if len(set(map(str, names))) > 1:
        raise ValueError(f"RoPE scaling has rope_type {names[0]!r} and type {names[1]!r}")
    kind = names[0] if names else "default"
    if not isinstance(kind, str) or kind not in ROPE_KINDS:
        raise ValueError(f"RoPE scaling {kind!r} is not supported; {', '.join(ROPE_KINDS)} are")
    return kind


def _original_positions(fields: Fields, scaling: Fields, kind: str, positions: int) -> int:
    """Return the length before scaling."""
    top = fields.get(_ORIGINAL)
    inner = scaling.get(_ORIGINAL) if _ORIGINAL in _BY_KIND[kind] else None
    if top is not None and inner is not None and top != inner:
        raise ValueError(f"{_ORIGINAL} is {top}, and {inner} in the RoPE settings")
    original = (fields if inner is None else scaling).whole(_ORIGINAL, positions)
    if kind in ("default", "dynamic") and original != positions:
        raise ValueError(
            f"{_ORIGINAL} is {original}, but rope_type {kind!r} scales from "
            f"max_position_embeddings, which is {positions}: set both to the same value"
        )
    return original


def _of_kind(scaling: Fields, kind: str, theta: float, original: int, positions: int) -> RopeConfig:
    if kind == "default":
        if scaling.number("factor", 1.0) != 1:
            raise ValueError(
                f"factor is {scaling.get('factor')!r} without a rope_type that uses it: set one "
                f"of {', '.join(ROPE_KINDS[1:])}"
            )
        return RopeConfig(theta=theta, original_positions=original)
    if kind == "yarn":
        return _yarn(scaling, theta, original, positions)
    low = scaling.number("low_freq_factor") if kind == "llama3" else 1.0
    high = scaling.number("high_freq_factor") if kind == "llama3" else 4.0
    if high <= low:
        raise ValueError(f"high_freq_factor is {high}: it must exceed low_freq_factor, {low}")
    return RopeConfig(
        theta=theta,
        kind=kind,
        factor=scaling.number("factor"),
        original_positions=original,
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _yarn(scaling: Fields, theta: float, original: int, positions: int) -> RopeConfig:
    if theta <= 1:
        raise ValueError(f"rope_theta is {theta}: yarn needs one above 1")
    if not scaling.states("factor"):
        raise ValueError("rope_type 'yarn' needs a factor")
    factor = scaling.number("factor", positions / original)
    scaling.get("finetuned")
    return RopeConfig(
        theta=theta,
        kind="yarn",
        factor=factor,
        original_positions=original,
        beta_fast=scaling.number("beta_fast", 32.0),
        beta_slow=scaling.number("beta_slow", 1.0),
        truncate=scaling.flag("truncate", default=True),
        attention_factor=_attention_factor(scaling, factor),
    )


def _attention_factor(scaling: Fields, factor: float) -> float:
    """Return yarn's temperature (Peng et al., arXiv 2309.00071, section 3.4)."""

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    mscale, all_dim = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if scaling.get("attention_factor") is not None:
        return scaling.number("attention_factor")
    if mscale and all_dim:
        return scale(scaling.number("mscale")) / scale(scaling.number("mscale_all_dim"))
    return scale(1.0)
