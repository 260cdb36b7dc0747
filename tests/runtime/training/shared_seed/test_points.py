"""A model at many points in one forward: equal to models whose weights are there, and unmoved."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from parallel.training.lora import add_lora
from parallel.training.shared_seed.byte_codec import decode, encode
from parallel.training.shared_seed.directions import Direction, signs, weighted_sum
from parallel.training.shared_seed.space import LowRankSpace
from runtime.baselines.transformers_baseline import TransformersBaseline
from runtime.errors import ConfigError
from runtime.models.tokenizer import Tokenizer
from runtime.training.shared_seed.estimate import one_sided, two_sided
from runtime.training.shared_seed.points import PointsModel
from runtime.training.shared_seed.seed_log import Header
from runtime.training.training_data import Sample
from tests.support.reference_models import make_model, save
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.tiny_transformer import SIZES

SEED = 9
D = [Direction(4, 2, k) for k in range(3)]
SAMPLES = [Sample((5, 9, 11, 3), 2), Sample((7, 1), 1), Sample((8, 2, 6, 4, 12), 3)]
OTHERS = [Sample((1, 2, 3), 1), Sample((9, 9, 4), 2), Sample((30, 20, 10, 40), 2)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


def header(weights: str = "lora", *, rank: int = 2) -> Header:
    return Header(
        seed=SEED, model="tiny", model_digest=b"", size=0, eps=1e-2, weights=weights, rank=3,
        alpha=6.0, targets=["q_proj", "down_proj"], direction_rank=rank,
    )  # fmt: skip


def moved(model: PointsModel) -> Tensor:
    """Weights somewhere else than at the start, where B is not zero."""
    start = model.points.start()
    return start + 0.02 * torch.randn(start.shape, generator=torch.Generator().manual_seed(1))


def plain_loss(model: PreTrainedModel, samples: Sequence[Sample]) -> tuple[float, int]:
    """The summed loss by transformers, one sample at a time, without padding."""
    total, num = 0.0, 0
    with torch.inference_mode():
        for sample in samples:
            ids = torch.tensor([sample.token_ids])
            logits = model(ids).logits[0, sample.num_prompt - 1 : -1]
            total += float(F.cross_entropy(logits, ids[0, sample.num_prompt :], reduction="sum"))
            num += sample.num_loss_tokens
    return total, num


def test_every_group_of_rows_is_at_its_own_adapter(checkpoint: Path) -> None:
    model = PointsModel.load(checkpoint, header())
    theta = moved(model)
    steps = [0.3, -0.3, 0.5]
    batches = [SAMPLES, SAMPLES, OTHERS]
    found = model.losses(theta, D, steps, batches)
    for direction, step, batch, sums in zip(D, steps, batches, found, strict=True):
        other = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        weights = add_lora(other, ["q_proj", "down_proj"], rank=3, alpha=6.0, seed=0)
        point = theta + step * signs(SEED, [direction], len(theta))[0]
        first = 0
        for name in sorted(weights):
            weight = weights[name]
            weight.data = point[first : first + weight.numel()].view_as(weight)
            first += weight.numel()
        total, num = plain_loss(other, batch)
        assert sums.num == num
        assert sums.total == pytest.approx(total, rel=1e-5)
    assert found[0].total != pytest.approx(found[1].total, rel=1e-4)


def test_a_cap_of_the_logits_is_that_of_transformers(tmp_path: Path) -> None:
    fields = SIZES | {"model_type": "gemma3_text", "final_logit_softcapping": 2.0}
    save(make_model(fields, own_head=False), fields, tmp_path, "safetensors")
    model = PointsModel.load(tmp_path, header())
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    likelihoods = model.log_likelihoods(model.points.start(), SAMPLES)
    assert -sum(likelihoods) == pytest.approx(plain_loss(reference, SAMPLES)[0], abs=1e-4)


def test_a_loss_may_be_among_choices(checkpoint: Path) -> None:
    model = PointsModel.load(checkpoint, header())
    theta = moved(model)
    samples = [Sample((5, 9, 11), 2, (11, 40)), Sample((7, 1, 8, 2), 3, (2, 3))]
    (found,) = model.losses(theta, D[:1], [0.0], [samples])
    scores = model.choice_scores(theta, samples, [s.choices for s in samples])
    chances = [torch.tensor(row).log_softmax(0) for row in scores]
    assert found.total == pytest.approx(-float(chances[0][0] + chances[1][0]), rel=1e-4)
    assert found.total < 8  # among all 101 tokens it would be about 9


def test_linear_weights_move_along_low_rank_directions(checkpoint: Path) -> None:
    model = PointsModel.load(checkpoint, header("linear"))
    theta = moved(model)
    space = model.points.space
    assert isinstance(space, LowRankSpace)
    found = model.losses(theta, D, [0.02, -0.05, 0.0], [SAMPLES, OTHERS, SAMPLES])
    for direction, step, batch, sums in zip(
        D, [0.02, -0.05, 0.0], [SAMPLES, OTHERS, SAMPLES], found, strict=True
    ):
        other = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        whole = theta.clone()
        for part in space.totals([direction], [1], "cpu"):
            whole[part.first : part.stop] += step * space.scale * part.total.float()
        named = dict(other.named_parameters())
        for name, weight in model.points.named(whole).items():
            named[name].data = weight
        assert sums.total == pytest.approx(plain_loss(other, batch)[0], rel=1e-5)


@pytest.mark.parametrize("weights", ["lora", "linear"])
def test_evaluation_moves_no_weight(checkpoint: Path, weights: str) -> None:
    model = PointsModel.load(checkpoint, header(weights))
    theta = moved(model)
    before = theta.clone()
    frozen = {name: value.clone() for name, value in model.model.state_dict().items()}
    first = two_sided(model, theta, D, [SAMPLES] * 3, eps=0.05, rows=64)
    for _ in range(20):
        two_sided(model, theta, D, [OTHERS] * 3, eps=0.05, rows=64)
    again = two_sided(model, theta, D, [SAMPLES] * 3, eps=0.05, rows=64)
    assert again.projected_grads == first.projected_grads
    assert torch.equal(theta.view(torch.int32), before.view(torch.int32))
    if weights == "lora":
        for name, value in model.model.state_dict().items():
            assert torch.equal(value, frozen[name])


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 12, 64])
def test_how_rows_share_forwards_does_not_matter(checkpoint: Path, rows: int) -> None:
    model = PointsModel.load(checkpoint, header())
    theta = moved(model)
    whole = two_sided(model, theta, D, [SAMPLES, OTHERS, SAMPLES], eps=0.05, rows=1000)
    parts = two_sided(model, theta, D, [SAMPLES, OTHERS, SAMPLES], eps=0.05, rows=rows)
    assert parts.projected_grads == pytest.approx(whole.projected_grads, rel=1e-3)
    assert parts.loss == pytest.approx(whole.loss)
    assert parts.num_rows == whole.num_rows == 18
    one = one_sided(model, theta, D, SAMPLES, eps=0.05, rows=1000)
    other = one_sided(model, theta, D, SAMPLES, eps=0.05, rows=rows)
    assert other.projected_grads == pytest.approx(one.projected_grads, rel=2e-3)
    assert one.num_rows == 12


def test_machines_of_one_direction_are_together_one_machine_of_all(checkpoint: Path) -> None:
    """Bit for bit, where forwards have the same rows: scalars, bytes and what they add up to."""
    batches, rows = [SAMPLES, OTHERS, SAMPLES], 2 * len(SAMPLES)
    one = PointsModel.load(checkpoint, header())
    theta = moved(one)
    together = two_sided(one, theta, D, batches, eps=0.05, rows=rows).projected_grads
    alone = []
    for direction, batch in zip(D, batches, strict=True):
        machine = PointsModel.load(checkpoint, header())
        alone += two_sided(
            machine, theta, [direction], [batch], eps=0.05, rows=rows
        ).projected_grads
    assert alone == together
    weights = [decode(encode(scalar, 1.0)) for scalar in together]
    whole = weighted_sum(SEED, D, weights, len(theta))
    parts = [weighted_sum(SEED, [d], [w], len(theta)) for d, w in zip(D, weights, strict=True)]
    assert torch.equal(sum(parts[1:], parts[0]), whole)
    assert whole.any()


def test_scalars_are_the_gradient_along_directions(checkpoint: Path) -> None:
    """Both estimates near g z, where g is autograd's."""
    model = PointsModel.load(checkpoint, header())
    theta = moved(model)
    other = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    weights = add_lora(other, ["q_proj", "down_proj"], rank=3, alpha=6.0, seed=0)
    first = 0
    for name in sorted(weights):
        weight = weights[name]
        weight.data = theta[first : first + weight.numel()].view_as(weight)
        first += weight.numel()
    total, num = torch.zeros(()), 0
    for sample in SAMPLES:
        ids = torch.tensor([sample.token_ids])
        logits = other(ids).logits[0, sample.num_prompt - 1 : -1]
        total = total + F.cross_entropy(logits, ids[0, sample.num_prompt :], reduction="sum")
        num += sample.num_loss_tokens
    (total / num).backward()  # type: ignore[no-untyped-call]  # torch's
    parts = [weights[name].grad for name in sorted(weights)]
    gradient = torch.cat([part.flatten() for part in parts if part is not None])
    wanted = [float(gradient @ signs(SEED, [d], len(theta))[0].float()) for d in D]
    found = two_sided(model, theta, D, [SAMPLES] * 3, eps=1e-3, rows=64)
    assert found.projected_grads == pytest.approx(wanted, rel=0.02, abs=2e-3)
    found = one_sided(model, theta, D, SAMPLES, eps=1e-3, rows=64)
    assert found.projected_grads == pytest.approx(wanted, rel=0.1, abs=1e-2)


def test_adapters_start_alike_everywhere(checkpoint: Path) -> None:
    model = PointsModel.load(checkpoint, header(), empty=True)
    start = model.points.start()
    assert torch.equal(start, PointsModel.load(checkpoint, header()).points.start())
    named = model.points.named(start)
    for name, weight in named.items():
        bound = weight.shape[1] ** -0.5
        assert (weight == 0).all() if name.endswith("lora_B") else weight.abs().max() <= bound
    first, second, *_ = (w for n, w in named.items() if n.endswith("q_proj.lora_A"))
    assert not torch.equal(first, second)


def test_a_layer_that_is_not_there_is_said(checkpoint: Path) -> None:
    wrong = Header(
        seed=1, model="m", model_digest=b"", size=0, eps=1e-2, targets=["x_proj"]
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"`lora.targets`: no linear layer is called x_proj: "):
        PointsModel.load(checkpoint, wrong)


def test_answers_are_greedy_whatever_generation_config_asks_for(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "bent"))
    bent = {"repetition_penalty": 9.0, "suppress_tokens": list(range(50)), "num_beams": 3}
    (folder / "generation_config.json").write_text(json.dumps(bent))
    tokenizer, prompt = Tokenizer.load(folder), [5, 9, 11]
    plain = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = list(prompt)
    for _ in range(8):
        ids.append(int(plain(torch.tensor([ids])).logits[0, -1].argmax()))
    model = PointsModel.load(folder, header())
    answers = model.answers_at(model.points.start(), [prompt], tokenizer, 8)
    assert answers == [tokenizer.decode(ids[3:])]
    assert TransformersBaseline(str(folder), "float32", "cpu", torch.get_num_threads()).generate(
        [tuple(prompt)], 8, None
    ).token_ids == (tuple(ids[3:]),)


def test_answers_of_points_are_those_of_each_alone(checkpoint: Path) -> None:
    model = PointsModel.load(checkpoint, header())
    tokenizer = Tokenizer.load(checkpoint)
    theta = moved(model)
    prompts = [(5, 9, 11), (7, 1, 30, 2)]
    both = model.answers(theta, D[:2], [2.0, -2.0], prompts, tokenizer, 5)
    assert len(both) == 4
    for place, (direction, step) in enumerate(((D[0], 2.0), (D[1], -2.0))):
        alone = [
            model.answers(theta, [direction], [step], [prompt], tokenizer, 5)[0]
            for prompt in prompts
        ]
        assert both[2 * place : 2 * place + 2] == alone
    assert both[:2] != both[2:]
    assert all(len(answer.split()) == 5 for answer in both)
