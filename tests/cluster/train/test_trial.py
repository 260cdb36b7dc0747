"""A model in the driver: it starts, continues and is written without being loaded."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cluster.train.trial import BEST, Trial, adapter_start, is_finished
from parallel.training.adamw import AdamW
from runtime.errors import ConfigError
from runtime.training.adapters.weight_layout import StartPoint
from runtime.training.job.ending_config import EarlyStopConfig
from runtime.training.job.job_config import CheckpointConfig, OptimizerConfig, TrainConfig
from runtime.training.job_checkpoint import JobFiles
from runtime.training.trainable import Trainable
from runtime.training.training_step import StepReport
from tests.support.tiny_checkpoint import save_tiny_checkpoint

STEPS = 3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def make(tiny: Path, out: Path, start: StartPoint | None = None) -> Trial:
    config = TrainConfig(model=str(tiny), out=str(out), checkpoint=CheckpointConfig(state_every=2))
    files = JobFiles(out, config)
    state = files.open()
    return Trial(config, files, start or adapter_start(tiny, config), state, tiny)


def advance(trial: Trial) -> None:
    gradient = np.ones_like(trial.optimizer.parameters)
    trial.optimizer.update(gradient, lr=0.1, beta1=0.9, beta2=0.999, weight_decay=0.0)
    trial.states.after_step(trial.optimizer)
    trial.states.wait()


def test_a_trial_continues_after_its_last_state(tiny: Path, tmp_path: Path) -> None:
    trial = make(tiny, tmp_path)
    for _ in range(STEPS):
        advance(trial)
    assert make(tiny, tmp_path).optimizer.step == 2  # a state every two steps
    trial.states.finish(trial.optimizer)
    again = make(tiny, tmp_path)
    assert again.optimizer.step == STEPS
    assert np.array_equal(again.optimizer.parameters, trial.optimizer.parameters)


def test_an_adapter_is_written_as_the_model_names_its_weights(tiny: Path, tmp_path: Path) -> None:
    trial = make(tiny, tmp_path)
    advance(trial)
    trial.save("step-000001")
    model = Trainable.load(tiny, trial.config)
    model.set(trial.optimizer.parameters)
    found = load_file(tmp_path / "step-000001" / "adapter_model.safetensors")
    wanted = {f"base_model.model.{name}.weight": w for name, w in model.weights.items()}
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name].detach().numpy()) for name in found)


def test_a_state_of_another_number_of_weights_is_rejected(tiny: Path, tmp_path: Path) -> None:
    trial = make(tiny, tmp_path)
    advance(trial)
    advance(trial)
    config = replace(trial.config, lora=replace(trial.config.lora, rank=4))
    with pytest.raises(ConfigError, match=r"has 4,032 numbers, the job trains 2,016: name another"):
        make(tiny, tmp_path, adapter_start(tiny, config))


def test_a_trial_is_finished_with_its_last_step_and_its_result(tiny: Path, tmp_path: Path) -> None:
    trial = make(tiny, tmp_path)
    config = replace(trial.config, optimizer=OptimizerConfig(steps=STEPS))
    assert not is_finished(trial.files, None, config)
    state: AdamW = trial.optimizer
    state.step = STEPS
    assert not is_finished(trial.files, state, config)
    (tmp_path / "final").mkdir()
    assert is_finished(trial.files, state, config)
    assert not is_finished(trial.files, state, trial.config)


def test_a_trial_that_gains_no_more_is_finished_with_its_result(tiny: Path, tmp_path: Path) -> None:
    trial = make(tiny, tmp_path)
    config = replace(trial.config, early_stop=EarlyStopConfig(patience=2))
    report = StepReport(
        step=1, loss=1.0, lr=1e-3, gradient_norm=1.0, num_tokens=1, seconds=1.0, num_repeated=0,
        num_stragglers=0, num_lost=0,
    )  # fmt: skip
    (tmp_path / "final").mkdir()
    for step, accuracy in enumerate((0.5, 0.4, 0.5), start=1):
        assert not is_finished(trial.files, trial.optimizer, config)
        trial.files.add_metrics(replace(report, step=step), {"accuracy": accuracy})
    assert is_finished(trial.files, trial.optimizer, config)
    assert not is_finished(trial.files, trial.optimizer, trial.config)


def test_the_weights_of_the_best_evaluation_are_kept(tiny: Path, tmp_path: Path) -> None:
    trial = make(tiny, tmp_path)
    kept = []
    for loss in (0.5, 0.3, 0.4):
        advance(trial)
        trial.history.add({"step": trial.optimizer.step, "eval_loss": loss})
        trial.keep_best()
        kept.append(load_file(tmp_path / BEST / "adapter_model.safetensors"))
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 2, "eval_loss": 0.3}
    same = [all(np.array_equal(one[name], kept[2][name]) for name in one) for one in kept]
    assert same == [False, True, True]


def test_weights_that_do_not_decay_have_to_exist(tiny: Path, tmp_path: Path) -> None:
    optimizer = OptimizerConfig(weight_decay=0.1, no_decay=["lora_A"])
    config = TrainConfig(model=str(tiny), out=str(tmp_path), optimizer=optimizer)
    start = adapter_start(tiny, config)
    trial = Trial(config, JobFiles(tmp_path, config), start, None, tiny)
    sizes = sum(part.stop - part.start for part in trial.optimizer.undecayed)
    assert 0 < sizes < start.layout.size
    with pytest.raises(ConfigError, match="'bias', which is in the name of no trained weight"):
        adapter_start(tiny, replace(config, optimizer=replace(optimizer, no_decay=["bias"])))
