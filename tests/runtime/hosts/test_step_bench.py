"""Steps of a tiny model are measured with all their parts."""

from pathlib import Path

import pytest

from runtime.clock import MonotonicClock
from runtime.errors import ConfigError
from runtime.hosts.rank_settings import ModelSettings
from runtime.hosts.step_bench import DecodeStepBench
from runtime.rank.span_clock import StepPart
from runtime.rank.virtual_shard import VirtualSpec
from tests.support.tiny_checkpoint import save_tiny_checkpoint


def test_parts_add_up_to_the_step_and_all_drafts_are_accepted(tmp_path: Path) -> None:
    directory = save_tiny_checkpoint(tmp_path)
    settings = ModelSettings(role="target", directory=str(directory), cache_tokens=64)
    bench = DecodeStepBench(settings, context=40, most_rows=4, clock=MonotonicClock())
    steps = bench.measure((1, 4), repeats=3)
    assert bench.num_accepted == 3
    assert [step.num_rows for step in steps] == [1, 4]
    for step in steps:
        assert set(step.parts_s) == set(StepPart)
        assert sum(step.parts_s.values()) == pytest.approx(step.total_s)
        assert step.spread_s[0] <= step.total_s <= step.spread_s[1]
        assert all(step.parts_s[part] > 0 for part in StepPart if part is not StepPart.PYTHON)


def test_virtual_devices_are_refused() -> None:
    virtual = VirtualSpec.parse("target=1ms,draft=1ms,alpha=0.5")
    settings = ModelSettings(role="target", virtual=virtual)
    with pytest.raises(ConfigError, match="have no parts"):
        DecodeStepBench(settings, context=8, most_rows=1, clock=MonotonicClock())
