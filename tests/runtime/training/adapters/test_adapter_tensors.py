"""A job that starts from an adapter: its own, peft's, or one that does not fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from runtime.errors import ConfigError
from runtime.training.adapters.adapter_tensors import started_from
from runtime.training.adapters.saving import save_adapter
from runtime.training.job.job_config import LoraConfig, TrainConfig
from runtime.training.trainable import Trainable
from tests.support.tiny_checkpoint import save_tiny_checkpoint

LORA = LoraConfig(rank=4, alpha=8.0, targets=["q_proj", "v_proj"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def begin(tiny: Path, lora: LoraConfig) -> np.ndarray:
    start = Trainable.adapter(tiny, TrainConfig(lora=lora)).start_point
    return started_from(start, lora).parameters


def saved(tiny: Path, out: Path, lora: LoraConfig = LORA) -> Path:
    start = Trainable.adapter(tiny, TrainConfig(lora=lora)).start_point
    values = np.arange(start.layout.size, dtype=np.float32)
    save_adapter(out, start.layout.split(values), lora, "base")
    return out


def test_a_job_starts_from_its_own_adapter(tiny: Path, tmp_path: Path) -> None:
    lora = replace(LORA, start=str(saved(tiny, tmp_path / "adapter")))
    found = begin(tiny, lora)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.arange(len(found)))


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")  # of what peft calls
def test_a_job_starts_from_an_adapter_of_peft_and_computes_the_same(
    tiny: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    settings = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["v_proj", "q_proj"], init_lora_weights=False,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    theirs = peft.get_peft_model(model, settings)
    theirs.save_pretrained(str(tmp_path / "peft"))
    config = TrainConfig(lora=replace(LORA, start=str(tmp_path / "peft")))
    ours = Trainable.load(tiny, config)
    ours.set(started_from(ours.start_point, config.lora).parameters)
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.inference_mode():
        torch.testing.assert_close(ours.model(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 8}, r"has r 4, not 8: train with the adapter's own settings in `lora`"),
        ({"alpha": 9.0}, r"has lora_alpha 8.0, not 9.0"),
        ({"rank_stabilized": True}, r"has use_rslora None, not True"),
        ({"targets": ["q_proj"]}, r"the job lacks base_model.*v_proj.lora_A.weight: compare"),
        ({"targets": ["q_proj", "v_proj", "o_proj"]}, r"the adapter lacks .*o_proj.lora_A.weight"),
    ],
)
def test_an_adapter_of_other_settings_is_rejected_by_what_differs(
    tiny: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    lora = replace(LORA, start=str(saved(tiny, tmp_path / "adapter")), **changes)  # type: ignore[arg-type]  # its fields
    with pytest.raises(ConfigError, match=message):
        begin(tiny, lora)


def test_an_adapter_of_another_model_is_rejected_by_its_shape(tiny: Path, tmp_path: Path) -> None:
    other = save_tiny_checkpoint(tmp_path / "other", hidden_size=72)
    lora = replace(LORA, start=str(saved(other, tmp_path / "adapter")))
    with pytest.raises(ConfigError, match=r"has the shape \(4, 72\), not \(4, 36\): it belongs"):
        begin(tiny, lora)


def test_a_missing_adapter_is_rejected_by_its_name(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is not an adapter: it has no adapter_config"):
        begin(tiny, replace(LORA, start=str(tmp_path / "nothing")))
