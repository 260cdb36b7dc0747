"""Steps with adapters are timed beside steps without, on a tiny model."""

from pathlib import Path

import pytest

from parallel.model.low_rank import AdaptedPart
from runtime.clock import MonotonicClock
from runtime.errors import ConfigError
from runtime.hosts.adapter_bench import AdapterBench, RowAdapters, parts_of
from runtime.hosts.rank_settings import ModelSettings
from runtime.models.model_facts import read_facts
from tests.support.tiny_checkpoint import save_tiny_checkpoint


def test_all_kinds_that_so_many_sequences_can_show_are_timed(tmp_path: Path) -> None:
    directory = save_tiny_checkpoint(tmp_path)
    config = read_facts(directory).config
    for number, kinds in ((1, 3), (3, 4), (5, 5)):
        settings = ModelSettings(role="target", directory=str(directory), cache_tokens=128 * number)
        bench = AdapterBench(
            settings,
            config,
            num_sequences=number,
            context=20,
            num_tokens=2,
            rank=4,
            parts=list(AdaptedPart),
            clock=MonotonicClock(),
        )
        found = bench.measure(repeats=2)
        assert [times.rows for times in found] == list(RowAdapters)[:kinds]
        assert all(times.step_s > 0 and times.ratio > 0 for times in found)
        assert all(times.thread_s > 0 for times in found)


def test_sequences_have_adapters_in_turn() -> None:
    assert RowAdapters.BASE.names(2) == RowAdapters.NONE_HELD.names(2) == ["", ""]
    assert len(set(RowAdapters.ONE.names(5))) == 1
    assert len(set(RowAdapters.THREE.names(5))) == 3
    assert RowAdapters.MIXED.names(4)[3] == ""
    assert "" not in RowAdapters.THREE.names(9)


def test_layers_have_names() -> None:
    assert parts_of(["q_proj", "down_proj"]) == [AdaptedPart.QUERY, AdaptedPart.DOWN]
    with pytest.raises(ConfigError, match="`targets` has 'lm_head': choose among q_proj, k_proj"):
        parts_of(["lm_head"])
