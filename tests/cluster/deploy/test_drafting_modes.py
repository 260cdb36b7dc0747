"""Comparisons of drafters run in fixed modes that draft."""

import pytest

from cluster.deploy.drafting_modes import DRAFTING_MODES, check_drafting
from parallel.decoding.types import DecodeMode
from runtime.errors import ConfigError


def test_fixed_modes_that_draft_are_accepted() -> None:
    assert {DecodeMode.SPECULATIVE, DecodeMode.PEARL} <= set(DRAFTING_MODES)
    for mode in DRAFTING_MODES:
        check_drafting(mode)


@pytest.mark.parametrize("mode", [DecodeMode.AUTOREGRESSIVE, DecodeMode.AUTO])
def test_other_modes_are_rejected_with_those_that_fit(mode: DecodeMode) -> None:
    with pytest.raises(ConfigError, match=f"^`mode` is '{mode.value}': choose .*speculative"):
        check_drafting(mode)
