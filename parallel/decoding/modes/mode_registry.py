"""The table of decoding modes."""

from parallel.decoding.modes.auto import AutoMode
from parallel.decoding.modes.autoregressive import AutoregressiveMode
from parallel.decoding.modes.mode_policy import ModePolicy
from parallel.decoding.modes.pearl import PearlMode
from parallel.decoding.modes.speculative import SpeculativeMode
from parallel.decoding.types import DecodeMode

_POLICIES: dict[DecodeMode, ModePolicy] = {
    DecodeMode.AUTOREGRESSIVE: AutoregressiveMode(),
    DecodeMode.SPECULATIVE: SpeculativeMode(),
    DecodeMode.PEARL: PearlMode(),
    DecodeMode.AUTO: AutoMode(),
}
FIXED_MODES = tuple(mode for mode, policy in _POLICIES.items() if not policy.choices)
"""The modes that rounds run in; the others choose among them."""


def policy_of(mode: DecodeMode) -> ModePolicy:
    """Return the policy of a mode."""
    return _POLICIES[mode]
