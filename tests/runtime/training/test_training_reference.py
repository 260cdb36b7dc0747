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
from runtime.training.job.dpo_config import DpoConfig
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
BATCHINGS: tuple[Batching, ...] = ("padded", "grouped", "packed")
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


def pairs() -> list[Sample]:
    """Return preferences: the samples, each rather than another answer to its prompt."""
    draw = np.random.default_rng(12)
    return [
        replace(
            one,
            rejected=replace(
                one,
                token_ids=(
                    *one.token_ids[: one.num_prompt],
                    *draw.integers(1, 100, draw.integers(1, 9)).tolist(),
                ),
            ),
        )
        for one in samples()
    ]


def turns() -> list[Sample]:
    """Return conversations of which two turns are learned, with other tokens between them."""
    found = []
    for one in samples():
        size = len(one.token_ids)
        longer = replace(one, token_ids=(*one.token_ids, *range(20, 29)))
        found.append(replace(longer, gaps=((size, size + 5),)))
    return found


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


def preference_job(
    kind: str = "plain", batching: Batching = "grouped", *, beta: float = 0.5
) -> TrainConfig:
    config = job("lora", batching, KINDS[kind])
    return replace(config, objective="dpo", dpo=DpoConfig(beta=beta, label_smoothing=0.1))


def reference_losses(
    directory: Path, config: TrainConfig, all_samples: Sequence[Sample] = ()
) -> list[float]:
    """Train with peft and torch's AdamW, each batch in one padded forward."""
    all_samples = all_samples or (pairs() if config.prefers else samples())
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
    losses = []
    for step in range(STEPS):
        ids = step_samples(step, num_samples=len(all_samples), batch=settings.batch, seed=4)
        some = [all_samples[index] for index in ids]
        loss = (
            mean_preference_loss(model, some, config.dpo)
            if config.prefers
            else mean_loss(model, some)
        )
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
        learned = torch.tensor(sample.learned_positions)
        labels[row, learned] = ids[row, learned]
    logits = model(input_ids=ids, attention_mask=there).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())


def mean_preference_loss(
    model: PreTrainedModel, some: Sequence[Sample], dpo: DpoConfig
) -> torch.Tensor:
    """Return the loss of DPO's paper, with peft's model without its adapter as the reference."""
    answers = [*some, *(pair.rejected for pair in some if pair.rejected is not None)]
    policy = torch.stack([log_prob(model, answer) for answer in answers]).view(2, -1)
    with torch.no_grad(), model.disable_adapter():
        reference = torch.stack([log_prob(model, answer) for answer in answers]).view(2, -1)
    chosen, rejected = dpo.beta * (policy - reference)
    right = torch.sigmoid(chosen - rejected)
    smooth = dpo.label_smoothing
    return -((1 - smooth) * right.log() + smooth * (1 - right).log()).mean()


def log_prob(model: PreTrainedModel, answer: Sample) -> torch.Tensor:
    """Return the log probability of an answer after its prompt, in a forward of its own."""
    ids = torch.tensor([answer.token_ids])
    each = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    first = answer.num_prompt
    total: torch.Tensor = each[first - 1 :].gather(1, ids[0, first:, None]).sum()
    return total


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_ten_losses_are_those_of_peft_and_torch(tiny: Path, method: Method) -> None:
    wanted = reference_losses(tiny, job(method))
    assert wanted[-1] < wanted[0] - 0.05
    for batching in BATCHINGS:
        _, losses = train_here(tiny, job(method, batching), samples())
        assert losses == pytest.approx(wanted, abs=1e-4), batching


def test_ten_losses_of_all_turns_are_those_of_peft_and_torch(tiny: Path) -> None:
    wanted = reference_losses(tiny, job("lora"), turns())
    assert wanted[0] != reference_losses(tiny, job("lora"))[0]
    for batching in BATCHINGS:
        _, losses = train_here(tiny, job("lora", batching), turns())
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


@pytest.mark.parametrize("kind", ["plain", "dora"])
def test_ten_losses_of_preferences_are_those_of_peft_and_torch(tiny: Path, kind: str) -> None:
    wanted = reference_losses(tiny, preference_job(kind))
    assert wanted[0] == pytest.approx(np.log(2), abs=1e-6)  # the start is the reference
    assert wanted[-1] < wanted[0] - 0.02
    for batching in BATCHINGS:
        _, losses = train_here(tiny, preference_job(kind, batching), pairs())
        assert losses == pytest.approx(wanted, abs=1e-4), batching


def test_preferences_on_a_base_in_low_precision_are_those_of_peft_on_the_same_numbers(
    tiny: Path,
) -> None:
    config = replace(preference_job(), base_precision="bfloat16")
    _, losses = train_here(tiny, config, pairs())
    assert losses == pytest.approx(reference_losses(tiny, config), abs=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8", "int4"])
def test_a_merge_adds_to_the_model_s_own_weights_whatever_the_job_held_them_in(
    tmp_path: Path, precision: Literal["float32", "bfloat16", "int8", "int4"]
) -> None:
    base = save_tiny_checkpoint(
        tmp_path / "base", hidden_size=64, intermediate_size=96, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    config = replace(job("lora"), base_precision=precision)
    optimizer, _ = train_here(base, config, samples())
    weights = Trainable.load(base, config).start_point.layout.split(optimizer.parameters)
    save_adapter(tmp_path / "adapter", weights, config.lora, str(base))
    merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    plain, merged = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32).state_dict()
        for name in ("base", "merged")
    )
    changed = {name for name in plain if not torch.equal(plain[name], merged[name])}
    assert changed == {f"{name.rpartition('.')[0]}.weight" for name in weights}
    for name in changed:
        layer = name.removesuffix(".weight")
        update = weights[f"{layer}.lora_B"] @ weights[f"{layer}.lora_A"] * np.float32(2.0)
        np.testing.assert_allclose(merged[name].numpy(), plain[name].numpy() + update, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "some"),
    [
        (job("lora", "grouped"), samples()),
        (job("lora", "packed"), samples()),
        (preference_job(), pairs()),
    ],
    ids=["grouped", "packed", "preferences"],
)
def test_kills_stragglers_and_other_numbers_of_workers_change_no_bit(
    tiny: Path,
    config: TrainConfig,
    some: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calm, losses = train_here(tiny, config, some)
    start = compute_in_pools(tiny, config, some, monkeypatch)
    for size in (1, 4):
        pool = worker_pools.FakePool(size=size, rng=random.Random(size), slow=0.2, dies=0.1)
        faulty = replace(config, workers=replace(config.workers, count=size, max_losses=1000))
        optimizer = AdamW.start(start)
        reports = list(training_steps(faulty, [optimizer], pool, SampleSizes.of(some), pool))
        assert sum(report.num_lost for report in reports) > 0
        assert [report.loss for report in reports] == losses
        assert np.array_equal(optimizer.parameters, calm.parameters)


def compute_in_pools(
    directory: Path, config: TrainConfig, some: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> Vector:
    """Make fake workers compute real gradients; return the weights at the start."""
    trainable = Trainable.load(directory, config)
    start = trainable.get()

    def computed(parameters: Vector, ids: Sequence[int]) -> tuple[Vector, float]:
        trainable.set(parameters)
        found, loss, _ = trainable.gradient([some[index] for index in ids])
        return found, loss

    monkeypatch.setattr(worker_pools, "gradient", computed)
    return start


def test_preferences_learned_in_coded_rounds_are_the_same_bits_under_faults(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = WorkersConfig(count=4, scheme="frc-1", max_losses=1000)
    config, some = replace(preference_job(), workers=workers), pairs()
    start = compute_in_pools(tiny, config, some, monkeypatch)
    ends = []
    for slow, dies in ((0.0, 0.0), (0.2, 0.05)):
        pool = worker_pools.FakePool(size=4, rng=random.Random(5), slow=slow, dies=dies)
        optimizer = AdamW.start(start)
        reports = list(training_steps(config, [optimizer], pool, SampleSizes.of(some), pool))
        assert (sum(report.num_lost for report in reports) > 0) == (dies > 0)
        ends.append(optimizer.parameters)
    assert np.array_equal(ends[0], ends[1])
    wanted = reference_losses(tiny, preference_job())
    assert [report.loss for report in reports] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "some"),
    [
        (job("lora"), samples()),
        (job("lora", lora=KINDS["rank-stabilized"]), samples()),
        (job("lora", lora=KINDS["dora"]), samples()),
        (replace(job("full"), optimizer=replace(job("full").optimizer, lr=1e-4)), samples()),
        (job("lora"), turns()),
        (preference_job(), pairs()),
    ],
    ids=["lora", "rank-stabilized", "dora", "full", "all turns", "preferences"],
)
def test_ten_losses_of_smollm2_are_those_of_peft_and_torch(
    config: TrainConfig, some: list[Sample]
) -> None:
    wanted = reference_losses(smollm2_directory(), config, some)
    assert wanted[-1] < wanted[0] - 0.05
    for batching in BATCHINGS:
        batched = replace(config, data=DataConfig(batching=batching))
        _, losses = train_here(smollm2_directory(), batched, some)
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
