"""The table of decoding modes."""

from parallel.decoding.modes.auto import AutoMode
from parallel.decoding.modes.autoregressive import AutoregressiveMode
from parallel.decoding.modes.mode_policy import ModePolicy
from parallel.decoding.modes.outcomes import OutcomesMode
from parallel.decoding.modes.pearl import PearlMode
from parallel.decoding.modes.speculative import SpeculativeMode
from parallel.decoding.types import DecodeMode

_FIXED: dict[DecodeMode, ModePolicy] = {
    DecodeMode.SPECULATIVE: SpeculativeMode(),
    DecodeMode.PEARL: PearlMode(),
    DecodeMode.OUTCOMES: OutcomesMode(),
    DecodeMode.AUTOREGRESSIVE: AutoregressiveMode(),
}
FIXED_MODES = tuple(_FIXED)
"""The modes that rounds run in, in the order in which `auto` tries them."""
_POLICIES: dict[DecodeMode, ModePolicy] = {**_FIXED, DecodeMode.AUTO: AutoMode(FIXED_MODES)}


def policy_of(mode: DecodeMode) -> ModePolicy:
    """Return the policy of a mode."""
    return _POLICIES[mode]
