"""Training against a plain loop of peft and torch: the same losses, however samples are batched."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import peft
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel

from parallel.training.adamw import AdamW, Vector
from parallel.training.sampler import step_samples
from runtime.models.transformers_model import load_transformers
from runtime.training.adapters.frozen_base import load_frozen
from runtime.training.adapters.merge import merge_adapter
from runtime.training.adapters.saving import save_adapter
from runtime.training.job.job_config import (
    DataConfig,
    LoraConfig,
    OptimizerConfig,
    TrainConfig,
    WorkersConfig,
)
from runtime.training.scheme_plan import training_steps
from runtime.training.trainable import Trainable
from runtime.training.training_data import Sample
from runtime.training.training_step import SampleSizes
from tests.support import worker_pools
from tests.support.frozen_models import num_bytes, with_numbers_of
from tests.support.local_pool import train_here
from tests.support.models import smollm2_directory
from tests.support.tiny_checkpoint import save_tiny_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")  # of what peft calls
STEPS = 10
TARGETS = ["q_proj", "v_proj", "down_proj"]
Batching = Literal["padded", "grouped", "packed"]
Method = Literal["lora", "full"]
Precision = Literal["bfloat16", "int8", "int4"]


def samples() -> list[Sample]:
    draw = np.random.default_rng(11)
    sizes = draw.integers(4, 20, 23)
    return [
        Sample(tuple(draw.integers(1, 100, size).tolist()), int(draw.integers(1, size)))
        for size in sizes
    ]


KINDS = {
    "plain": LoraConfig(rank=4, alpha=8.0, targets=TARGETS),
    "rank-stabilized": LoraConfig(rank=4, alpha=8.0, targets=TARGETS, rank_stabilized=True),
    "dora": LoraConfig(rank=4, alpha=8.0, targets=TARGETS, dora=True),
    "patterns": LoraConfig(
        rank=4,
        alpha=8.0,
        targets=TARGETS,
        rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.down_proj": 6},
        alpha_pattern={"layers.[02].self_attn.v_proj": 3.0},
    ),
}


def job(
    method: Method, batching: Batching = "grouped", lora: LoraConfig = KINDS["plain"]
) -> TrainConfig:
    return TrainConfig(
        method=method,
        seed=4,
        data=DataConfig(batching=batching),
        lora=lora,
        optimizer=OptimizerConfig(
            steps=STEPS, batch=6, microbatch=2, lr=3e-3, warmup=0.0, schedule="constant",
            weight_decay=0.1,
        ),
        workers=WorkersConfig(count=1),
    )  # fmt: skip


def reference_losses(directory: Path, config: TrainConfig) -> list[float]:
    """Train with peft and torch's AdamW, each batch in one padded forward."""
    model = load_transformers(directory, torch.float32).eval()
    if config.base_precision != "float32":
        with_numbers_of(model, load_frozen(directory, config.base_precision))
    if config.method == "lora":
        model = with_adapter(model, directory, config)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        trained,
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
    )
    losses, all_samples = [], samples()
    for step in range(STEPS):
        ids = step_samples(step, num_samples=len(all_samples), batch=settings.batch, seed=4)
        loss = mean_loss(model, [all_samples[index] for index in ids])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        assert settings.clip is not None
        torch.nn.utils.clip_grad_norm_(trained, settings.clip)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def with_adapter(model: PreTrainedModel, directory: Path, config: TrainConfig) -> PreTrainedModel:
    """Add peft's adapter, with the weights that ours starts from."""
    lora = config.lora
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=int(lora.alpha),
        use_dora=lora.dora,
        target_modules=lora.targets,
        use_rslora=lora.rank_stabilized,
        rank_pattern=lora.rank_pattern,
        alpha_pattern=lora.alpha_pattern,
    )
    adapted = peft.get_peft_model(model, settings)
    state = {
        f"base_model.model.{name}.default.weight": weight.detach()
        for name, weight in Trainable.load(directory, config).weights.items()
    }
    left = adapted.load_state_dict(state, strict=False)
    assert not left.unexpected_keys
    assert not [name for name in left.missing_keys if "lora" in name]
    return adapted


def mean_loss(model: PreTrainedModel, some: Sequence[Sample]) -> torch.Tensor:
    length = max(len(sample.token_ids) for sample in some)
    ids = torch.zeros((len(some), length), dtype=torch.int64)
    there, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, sample in enumerate(some):
        size = len(sample.token_ids)
        ids[row, :size] = torch.tensor(sample.token_ids)
        there[row, :size] = 1
        labels[row, sample.num_prompt : size] = ids[row, sample.num_prompt : size]
    logits = model(input_ids=ids, attention_mask=there).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_ten_losses_are_those_of_peft_and_torch(tiny: Path, method: Method) -> None:
    wanted = reference_losses(tiny, job(method))
    assert wanted[-1] < wanted[0] - 0.05
    for batching in ("padded", "grouped", "packed"):
        _, losses = train_here(tiny, job(method, batching), samples())
        assert losses == pytest.approx(wanted, abs=1e-4), batching


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "plain"])
def test_other_adapters_train_like_peft_s_and_are_loaded_by_peft(
    tiny: Path, tmp_path: Path, kind: str
) -> None:
    config = job("lora", lora=KINDS[kind])
    wanted = reference_losses(tiny, config)
    assert abs(wanted[-1] - reference_losses(tiny, job("lora"))[-1]) > 1e-3  # it is another adapter
    optimizer, losses = train_here(tiny, config, samples())
    assert losses == pytest.approx(wanted, abs=1e-4)
    trainable = Trainable.load(tiny, config)
    trainable.set(optimizer.parameters)
    weights = trainable.start_point.layout.split(optimizer.parameters)
    save_adapter(tmp_path / "adapter", weights, config.lora, str(tiny))
    plain = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        found, ours = adapted(ids).logits, trainable.model(ids).logits
    torch.testing.assert_close(found, ours, atol=1e-5, rtol=1e-5)
    merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(merged(ids).logits, ours, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "int8", "int4"])
@pytest.mark.parametrize("kind", ["plain", "dora"])
def test_a_base_in_low_precision_trains_like_peft_on_the_same_numbers(
    tmp_path: Path, precision: Precision, kind: str
) -> None:
    save_tiny_checkpoint(
        tmp_path,
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    config = replace(job("lora", lora=KINDS[kind]), base_precision=precision)
    wanted = reference_losses(tmp_path, config)
    _, losses = train_here(tmp_path, config, samples())
    assert losses == pytest.approx(wanted, abs=1e-4)
    assert losses[-1] < losses[0] - 0.02
    start = Trainable.load(tmp_path, config).get()
    assert np.array_equal(Trainable.adapter(tmp_path, config).get(), start)


@pytest.mark.parametrize("batching", ["grouped", "packed"])
def test_kills_stragglers_and_other_numbers_of_workers_change_no_bit(
    tiny: Path, batching: Batching, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, some = job("lora", batching), samples()
    calm, losses = train_here(tiny, config, some)
    trainable = Trainable.load(tiny, config)
    start = trainable.get()

    def computed(parameters: Vector, ids: Sequence[int]) -> tuple[Vector, float]:
        trainable.set(parameters)
        found, loss, _ = trainable.gradient([some[index] for index in ids])
        return found, loss

    monkeypatch.setattr(worker_pools, "gradient", computed)
    for size in (1, 4):
        pool = worker_pools.FakePool(size=size, rng=random.Random(size), slow=0.2, dies=0.1)
        faulty = replace(config, workers=replace(config.workers, count=size, max_losses=1000))
        optimizer = AdamW.start(start)
        reports = list(training_steps(faulty, [optimizer], pool, SampleSizes.of(some), pool))
        assert sum(report.num_lost for report in reports) > 0
        assert [report.loss for report in reports] == losses
        assert np.array_equal(optimizer.parameters, calm.parameters)


@pytest.mark.slow
def test_ten_losses_of_smollm2_are_those_of_peft_and_torch() -> None:
    wanted = reference_losses(smollm2_directory(), job("lora"))
    assert wanted[-1] < wanted[0] - 0.05
    for batching in ("padded", "grouped", "packed"):
        _, losses = train_here(smollm2_directory(), job("lora", batching), samples())
        assert losses == pytest.approx(wanted, abs=1e-4), batching


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "most"), [("bfloat16", 0.6), ("int4", 0.35)])
def test_smollm2_in_low_precision_trains_like_peft_in_less_memory(
    precision: Precision, most: float
) -> None:
    directory = smollm2_directory()
    config = replace(job("lora", lora=KINDS["dora"]), base_precision=precision)
    _, losses = train_here(directory, config, samples())
    assert losses == pytest.approx(reference_losses(directory, config), abs=1e-4)
    whole = num_bytes(load_transformers(directory, torch.float32))
    assert num_bytes(load_frozen(directory, precision)) <= most * whole
