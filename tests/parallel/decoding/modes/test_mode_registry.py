"""Every decoding mode has a policy, and the traits of the policies fit together."""

import pytest

from parallel.decoding.modes.mode_registry import FIXED_MODES, policy_of
from parallel.decoding.types import DecodeMode


@pytest.mark.parametrize("mode", DecodeMode)
def test_every_mode_is_registered_and_chooses_only_among_fixed_modes(mode: DecodeMode) -> None:
    policy = policy_of(mode)
    assert set(policy.choices) <= set(FIXED_MODES)
    assert (mode in FIXED_MODES) == (not policy.choices)
    assert policy.drafts or not (policy.overlaps or policy.streams or policy.takes_trees)


def test_auto_tries_every_fixed_mode() -> None:
    assert set(policy_of(DecodeMode.AUTO).choices) == set(FIXED_MODES)


@pytest.mark.parametrize("mode", FIXED_MODES)
def test_no_acceptance_means_one_token_a_round(mode: DecodeMode) -> None:
    assert policy_of(mode).expected_tokens(0.0, 4) == 1.0
