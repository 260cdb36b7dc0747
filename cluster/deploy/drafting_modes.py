"""The decoding modes that a comparison of drafters can run: fixed ones that draft."""

from parallel.decoding.modes.mode_registry import FIXED_MODES, policy_of
from parallel.decoding.types import DecodeMode
from runtime.errors import ConfigError

DRAFTING_MODES = tuple(mode for mode in FIXED_MODES if policy_of(mode).drafts)


def check_drafting(mode: DecodeMode) -> None:
    """Reject a mode that drafts nothing, or that the leader changes while a request runs.

    Raises:
        ConfigError: the mode is neither; names the modes that can be compared.
    """
    if mode not in DRAFTING_MODES:
        known = " or ".join(DRAFTING_MODES)
        raise ConfigError(f"`mode` is {mode.value!r}: choose {known}")
