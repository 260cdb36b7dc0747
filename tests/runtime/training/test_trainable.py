"""Gradients and losses of samples against transformers' full logits, padded and packed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from parallel.training.adamw import Vector
from runtime.training.job.job_config import DataConfig, LoraConfig, TrainConfig
from runtime.training.token_rows import TokenRows
from runtime.training.trainable import Trainable
from runtime.training.training_data import Sample
from tests.support.reference_models import make_model, save
from tests.support.tiny_checkpoint import save_tiny_checkpoint

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LENGTHS = (9, 4, 14, 6)
SIZES: dict[str, object] = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
}


def samples(*, num_learned: int = 3) -> list[Sample]:
    draw = np.random.default_rng(3)
    return [
        Sample(tuple(draw.integers(1, 100, size).tolist()), size - num_learned) for size in LENGTHS
    ]


def load(
    directory: Path, *, packed: bool = False, method: Literal["lora", "full"] = "lora"
) -> Trainable:
    config = TrainConfig(
        method=method,
        data=DataConfig(batching="packed" if packed else "padded"),
        lora=LoraConfig(targets=TARGETS),
    )
    trainable = Trainable.load(directory, config)
    start = trainable.get()
    start[::7] += 0.05  # B is not 0, so that A learns too
    trainable.set(start)
    return trainable


def full_logits_gradient(trainable: Trainable, some: Sequence[Sample]) -> tuple[Vector, float]:
    """Return the gradient and the loss by logits at every position."""
    length = max(len(sample.token_ids) for sample in some)
    ids = torch.zeros((len(some), length), dtype=torch.int64)
    there, mask = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, sample in enumerate(some):
        ids[row, : len(sample.token_ids)] = torch.tensor(sample.token_ids)
        there[row, : len(sample.token_ids)] = 1
        mask[row, sample.num_prompt : len(sample.token_ids)] = True
    trainable.model.zero_grad()
    logits = trainable.model(input_ids=ids, attention_mask=there).logits
    assert logits.shape[:2] == ids.shape
    loss = F.cross_entropy(logits[:, :-1][mask[:, 1:]], ids[mask], reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]  # torch's
    parts = [
        weight.grad.reshape(-1) for weight in trainable.weights.values() if weight.grad is not None
    ]
    assert len(parts) == len(trainable.weights)
    return torch.cat(parts).numpy(), float(loss.detach())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("num_learned", [1, 3])
def test_logits_at_learned_tokens_alone_give_the_same_bits(tiny: Path, num_learned: int) -> None:
    trainable, some = load(tiny), samples(num_learned=num_learned)
    found, loss, num_tokens = trainable.gradient(some)
    wanted, wanted_loss = full_logits_gradient(trainable, some)
    assert np.array_equal(found, wanted)
    assert loss == wanted_loss
    assert num_tokens == num_learned * len(some)
    assert np.abs(found).max() > 0


def test_a_whole_model_s_gradient_is_that_of_full_logits(tiny: Path) -> None:
    trainable = load(tiny, method="full")
    found, loss, _ = trainable.gradient(samples())
    wanted, wanted_loss = full_logits_gradient(trainable, samples())
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert loss == pytest.approx(wanted_loss, rel=1e-6)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_packed_samples_give_the_gradient_of_each_alone(
    tiny: Path, method: Literal["lora", "full"]
) -> None:
    padded, packed = load(tiny, method=method), load(tiny, packed=True, method=method)
    found, loss, num_tokens = packed.gradient(samples())
    alone = [padded.gradient([sample]) for sample in samples()]
    total = np.sum([gradient for gradient, _, _ in alone], axis=0, dtype=np.float64)
    np.testing.assert_allclose(found, total, rtol=1e-4, atol=1e-5)
    assert loss == pytest.approx(sum(one for _, one, _ in alone), rel=1e-6)
    assert num_tokens == sum(num for _, _, num in alone)


def test_a_packed_sample_does_not_see_its_neighbors(tiny: Path) -> None:
    packed, some = load(tiny, packed=True), samples()
    before = packed.log_likelihoods(some)
    for changed in range(len(some)):
        other = list(some)
        ids = tuple((token + 17) % 100 for token in some[changed].token_ids)
        other[changed] = replace(some[changed], token_ids=ids)
        after = packed.log_likelihoods(other)
        same = [a == b for a, b in zip(after, before, strict=True)]
        assert same == [place != changed for place in range(len(some))]


def test_packed_rows_have_no_padding_and_positions_of_their_own() -> None:
    rows = TokenRows.of(samples(num_learned=1), packed=True)
    assert rows.inputs["input_ids"].shape == (1, sum(LENGTHS))
    assert rows.inputs["position_ids"].tolist() == [[p for n in LENGTHS for p in range(n)]]
    assert "attention_mask" not in rows.inputs
    ends = np.cumsum(LENGTHS) - 2  # the last token but one of each sample predicts the last one
    assert rows.is_learned[0].nonzero().flatten().tolist() == ends.tolist()
    assert rows.learned.tolist() == [sample.token_ids[-1] for sample in samples()]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {"sliding_window": 5}),
        ("gemma3_text", {"sliding_window": 5, "final_logit_softcapping": 2.0}),
    ],
)
def test_windows_and_caps_of_logits_stay_those_of_transformers(
    tmp_path: Path, kind: str, changes: dict[str, object]
) -> None:
    fields = SIZES | {"model_type": kind} | changes
    save(make_model(fields, own_head=False), fields, tmp_path, "safetensors")
    padded, packed = load(tmp_path), load(tmp_path, packed=True)
    wanted, wanted_loss = full_logits_gradient(padded, samples())
    for trainable in (padded, packed):
        found, loss, _ = trainable.gradient(samples())
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
        assert loss == pytest.approx(wanted_loss, rel=1e-5)


def count_rows(model: PreTrainedModel) -> list[int]:
    """Return a list that receives the number of rows of each forward."""
    rows: list[int] = []
    embedding = model.get_input_embeddings()
    embedding.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    return rows


def test_choices_of_one_token_share_the_forward_of_their_prompt(tiny: Path) -> None:
    trainable = load(tiny)
    prompts = [(1, 2, 3), (4, 5), (6, 7, 8, 9)]
    groups = [[Sample((*prompt, end), len(prompt)) for end in (11, 22, 33)] for prompt in prompts]
    rows = count_rows(trainable.model)
    found = trainable.scores(groups)
    assert rows == [len(groups)]
    each = [trainable.log_likelihoods([one])[0] for group in groups for one in group]
    np.testing.assert_allclose(np.ravel(found), each, rtol=1e-5)
    rows.clear()
    longer = [[*groups[0], Sample((1, 2, 3, 11, 12), 3)], groups[1]]
    found = trainable.scores(longer)
    assert rows == [7]
    np.testing.assert_allclose(found[1], trainable.scores(groups)[1], rtol=1e-5)
    rows.clear()
    trainable.scores([[Sample((1, 2, 3), 2), Sample((9, 9, 3), 2)]])  # two prompts
    assert rows == [2]


def preferences() -> list[Sample]:
    return [
        replace(
            one, rejected=replace(one, token_ids=(*one.token_ids[: one.num_prompt], 7, 8, 9, 10))
        )
        for one in samples()
    ]


def test_a_start_is_its_own_reference(tiny: Path) -> None:
    trainable = Trainable.load(tiny, TrainConfig(objective="dpo", lora=LoraConfig(targets=TARGETS)))
    assert trainable.margins(preferences()).tolist() == [0.0] * len(preferences())
    found, loss, num_losses = trainable.gradient(preferences())
    assert num_losses == len(preferences())
    assert loss == pytest.approx(num_losses * np.log(2))
    assert np.abs(found).max() > 0


def test_margins_are_gains_over_the_base_without_its_adapter(tiny: Path) -> None:
    base = Trainable.load(tiny, TrainConfig(lora=LoraConfig(targets=TARGETS)))
    policy, packed = load(tiny), load(tiny, packed=True)
    pairs = preferences()
    answers = [answer for pair in pairs for answer in pair.answers]
    gains = np.array(policy.log_likelihoods(answers)) - base.log_likelihoods(answers)
    wanted = 0.1 * (gains[::2] - gains[1::2])
    for trainable in (policy, packed):
        found = trainable.margins(pairs).tolist()
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert np.abs(wanted).min() > 0


def test_a_reference_has_no_dropout_and_leaves_the_model_as_it_was(tiny: Path) -> None:
    config = TrainConfig(objective="dpo", lora=LoraConfig(targets=TARGETS, dropout=0.5))
    trainable = Trainable.load(tiny, config)
    start = trainable.get()
    start[::7] += 0.05
    trainable.set(start)
    first, *_ = trainable.gradient(preferences(), dropout_seed=3)
    again, *_ = trainable.gradient(preferences(), dropout_seed=3)
    other, *_ = trainable.gradient(preferences(), dropout_seed=4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert trainable.margins(preferences()).tolist() == trainable.margins(preferences()).tolist()


def test_an_answer_is_transformers_greedy_one_with_the_adapter(tiny: Path) -> None:
    trainable = load(tiny, packed=True)
    prompt = (5, 6, 7)
    ids = list(prompt)
    for _ in range(6):
        with torch.inference_mode():
            ids.append(int(trainable.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    found = trainable.answer(prompt, ends=frozenset(), max_tokens=6)
    assert found == ids[3:]
    end = found[2]
    assert trainable.answer(prompt, ends={end}, max_tokens=6) == found[: found.index(end)]
