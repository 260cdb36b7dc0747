"""A model in the driver: it starts, continues and is written without being loaded."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cluster.train.trial import Trial, adapter_start, is_finished
from parallel.training.adamw import AdamW
from runtime.errors import ConfigError
from runtime.training.adapters.weight_layout import StartPoint
from runtime.training.job.job_config import CheckpointConfig, TrainConfig
from runtime.training.job_checkpoint import JobFiles
from runtime.training.trainable import Trainable
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
    assert not is_finished(trial.files, None, STEPS)
    state: AdamW = trial.optimizer
    state.step = STEPS
    assert not is_finished(trial.files, state, STEPS)
    (tmp_path / "final").mkdir()
    assert is_finished(trial.files, state, STEPS)
    assert not is_finished(trial.files, state, STEPS + 1)
