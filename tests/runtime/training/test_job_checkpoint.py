"""A job's files: resumed, rejected where they are another job's, whole although one is damaged."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from parallel.training.adamw import AdamW
from runtime.errors import ConfigError
from runtime.training.adapters.saving import drop_old_adapters, save_whole, step_name
from runtime.training.job_checkpoint import JobFiles
from tests.support.tokenizer_layouts import LAYOUTS
from tests.support.worker_pools import FakePool, make_config, train


def run_into(directory: Path, steps: int) -> AdamW:
    files = JobFiles(directory, make_config())
    state = files.open()
    for number in range(steps):
        pool = FakePool(size=4, rng=random.Random(number))
        state, (report,) = train(pool, make_config(), state, steps=1)
        files.add_metrics(report, {})
        files.save_state(state)
    assert state is not None
    return state


def test_an_interrupted_run_resumes_where_it_stopped(tmp_path: Path) -> None:
    whole = run_into(tmp_path / "whole", 12)
    run_into(tmp_path / "cut", 5)
    resumed = run_into(tmp_path / "cut", 7)
    assert np.array_equal(whole.parameters, resumed.parameters)
    lines = JobFiles(tmp_path / "cut", make_config()).metrics()
    assert [line["step"] for line in lines] == list(range(1, 13))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    run_into(tmp_path, 5)
    file = tmp_path / "state.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[-3] ^= 1
        file.write_bytes(data)
    else:
        file.unlink()
    state = JobFiles(tmp_path, make_config()).open()
    assert state is not None
    assert state.step == 4
    assert len(JobFiles(tmp_path, make_config()).metrics()) == 4


def test_two_damaged_states_are_rejected_by_name(tmp_path: Path) -> None:
    run_into(tmp_path, 3)
    for name in ("state.safetensors", "state.previous.safetensors"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"state.safetensors and .*cannot be read"):
        JobFiles(tmp_path, make_config()).open()


def test_a_run_with_other_settings_is_rejected(tmp_path: Path) -> None:
    run_into(tmp_path, 2)
    config = make_config()
    other = replace(config, optimizer=replace(config.optimizer, lr=0.1))
    with pytest.raises(ConfigError, match=r"optimizer.lr: 0.05 became 0.1"):
        JobFiles(tmp_path, other).open()
    with pytest.raises(ConfigError, match=r"other settings or data \(samples: '' became '5ac3'"):
        JobFiles(tmp_path, config, data_digest="5ac3").open()
    with pytest.raises(ConfigError, match=r"other settings or data \(base: '' became 'e01d'"):
        JobFiles(tmp_path, config, base_digest="e01d").open()
    with pytest.raises(ConfigError, match=r"other settings or data \(start: None became '77'"):
        JobFiles(tmp_path, config, start_digest="77").open()
    elastic = replace(config, workers=replace(config.workers, count=2))
    assert JobFiles(tmp_path, elastic).open() is not None


def test_a_job_of_before_bases_were_noted_continues(tmp_path: Path) -> None:
    run_into(tmp_path, 2)
    file = tmp_path / "job.json"
    settings = json.loads(file.read_text())
    del settings["base"]
    file.write_text(json.dumps(settings))
    assert JobFiles(tmp_path, make_config(), base_digest="e01d").open() is not None


def test_a_state_whose_vectors_do_not_belong_together_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = run_into(tmp_path, 2)
    files = JobFiles(tmp_path, make_config())
    files.save_state(replace(state, second=state.second[:-1]))
    assert files.open() is not None  # the state before
    files.save_state(replace(state, first=state.first.reshape(2, -1)))
    with pytest.raises(ConfigError, match=r"state.safetensors and .*previous.* cannot be read"):
        files.open()
    assert caplog.text.count("its vectors differ in shape or type") == 3


def test_a_job_that_came_to_nothing_may_be_set_again(tmp_path: Path) -> None:
    config = make_config()
    assert JobFiles(tmp_path, config).open() is None
    assert JobFiles(tmp_path, config).open() is None
    other = replace(config, optimizer=replace(config.optimizer, lr=0.1))
    assert JobFiles(tmp_path, other).open() is None
    assert json.loads((tmp_path / "job.json").read_text())["optimizer"]["lr"] == 0.1


def test_a_damaged_state_is_said_to_the_user(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_into(tmp_path, 5)
    (tmp_path / "state.safetensors").write_bytes(b"nothing")
    JobFiles(tmp_path, make_config()).open()
    assert "state.safetensors is damaged" in caplog.text
    assert "continuing from the state before it" in caplog.text


def test_damaged_settings_are_rejected_by_name(tmp_path: Path) -> None:
    run_into(tmp_path, 2)
    (tmp_path / "job.json").write_text('{"mod')
    with pytest.raises(ConfigError, match=r"job.json: not JSON.*start again in another `out`"):
        JobFiles(tmp_path, make_config()).open()


def test_a_job_that_was_cut_as_it_began_begins_again(tmp_path: Path) -> None:
    (tmp_path / "job.json.new").write_text("{")
    assert JobFiles(tmp_path, make_config()).open() is None
    assert JobFiles(tmp_path, make_config()).open() is None  # as a job of these settings


@pytest.mark.parametrize(("keep", "left"), [(0, [2, 40, 300]), (2, [40, 300]), (9, [2, 40, 300])])
def test_as_many_adapters_stay_as_are_wanted(tmp_path: Path, keep: int, left: list[int]) -> None:
    for name in (*map(step_name, (2, 300, 40)), "final", "step-000040.new"):
        (tmp_path / name).mkdir()
    drop_old_adapters(tmp_path, keep)
    there = sorted(file.name for file in tmp_path.iterdir())
    assert there == sorted([*map(step_name, left), "final", "step-000040.new"])


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="is not empty and holds no job"):
        JobFiles(tmp_path, make_config()).open()
    assert json.dumps([p.name for p in tmp_path.iterdir()]) == '["thesis.txt"]'


def test_a_whole_model_keeps_all_its_chat_templates(tmp_path: Path) -> None:
    base, made = tmp_path / "base", tmp_path / "made"
    LAYOUTS["templates in a folder"](base)
    save_whole(made, {"x": np.zeros(1, dtype=np.float32)}, base, has_tied_head=None)
    before, after = (AutoTokenizer.from_pretrained(folder).chat_template for folder in (base, made))
    assert after == before
    assert after.keys() == {"default", "tool_use"}


def test_a_finished_run_may_get_more_steps_and_no_fewer(tmp_path: Path) -> None:
    run_into(tmp_path, 12)
    (tmp_path / "final").mkdir()
    config = make_config()
    longer = replace(config, optimizer=replace(config.optimizer, steps=20))
    state = JobFiles(tmp_path, longer).open()
    assert state is not None
    assert state.step == 12
    assert not (tmp_path / "final").exists()  # it is no end any more
    assert (tmp_path / "step-000012").is_dir()
    assert json.loads((tmp_path / "job.json").read_text())["optimizer"]["steps"] == 20
    with pytest.raises(ConfigError, match=r"optimizer.steps: 20 became 12"):
        JobFiles(tmp_path, config).open()
    faster = replace(longer, optimizer=replace(longer.optimizer, steps=30, lr=0.5))
    with pytest.raises(ConfigError, match=r"optimizer.lr: 0.05 became 0.5"):
        JobFiles(tmp_path, faster).open()
