"""Low-rank adapters: nothing at the start, a known update after it."""

import pytest
import torch
from torch import Tensor, nn

from parallel.group import SoloGroup
from parallel.training.lora import LoraLinear, SplitInputs, adapters_off, add_lora


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.q_proj = nn.Linear(4, 6)
        self.o_proj = nn.Linear(6, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.o_proj(self.q_proj(x))
        return out


def test_adapters_change_nothing_until_they_learn() -> None:
    model, x = TwoLayers(), torch.randn(2, 4)
    before = model(x)
    weights = add_lora(model, ["q_proj", "o_proj"], rank=2, alpha=8, seed=0)
    assert torch.equal(model(x), before)
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
        "q_proj.lora_A": (2, 4),
        "q_proj.lora_B": (6, 2),
        "o_proj.lora_A": (2, 6),
        "o_proj.lora_B": (5, 2),
    }


def test_an_adapter_adds_its_product_times_alpha_over_rank() -> None:
    base = nn.Linear(4, 3)
    adapter = LoraLinear(base, rank=2, alpha=8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        adapter.lora_B.copy_(torch.randn(3, 2))
    x = torch.randn(5, 4)
    weight = base.weight + 4.0 * adapter.lora_B @ adapter.lora_A
    torch.testing.assert_close(adapter(x), x @ weight.T + base.bias)


@pytest.mark.parametrize("dora", [False, True])
def test_a_model_whose_adapters_are_off_is_its_base(dora: bool) -> None:
    model, x = TwoLayers(), torch.randn(2, 4)
    before = model(x)
    for weight in add_lora(
        model, ["q_proj", "o_proj"], rank=2, alpha=8, seed=0, dora=dora
    ).values():
        weight.data += 0.3
    changed = model(x)
    with adapters_off(model):
        assert torch.equal(model(x), before)
    assert torch.equal(model(x), changed)
    with pytest.raises(RuntimeError, match="shapes"), adapters_off(model):
        model(torch.ones(1))
    assert torch.equal(model(x), changed)
    assert not torch.equal(changed, before)


def test_only_adapters_learn() -> None:
    model = TwoLayers()
    add_lora(model, ["q_proj"], rank=2, alpha=2, seed=0)
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learning == {"q_proj.lora_A", "q_proj.lora_B"}


def test_the_start_depends_on_the_seed_alone_and_keeps_its_bound() -> None:
    first, same, other = (
        add_lora(TwoLayers(), ["q_proj"], rank=64, alpha=2, seed=seed)["q_proj.lora_A"].detach()
        for seed in (7, 7, 8)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert float(first.abs().max()) <= 0.5  # 1 / sqrt(4 inputs)
    assert float(first.abs().max()) > 0.4


def test_dropout_acts_on_the_update_in_training_mode_alone() -> None:
    adapter = LoraLinear(
        nn.Linear(64, 8), rank=4, alpha=4, generator=torch.Generator(), dropout=0.5
    )
    with torch.no_grad():
        adapter.lora_B.fill_(1.0)
    x = torch.ones(1, 64)
    adapter.train()
    assert not torch.equal(adapter(x), adapter(x))
    adapter.eval()
    assert torch.equal(adapter(x), adapter(x))


def test_a_name_that_no_layer_has_is_rejected_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match="called k_proj: there are o_proj, q_proj"):
        add_lora(TwoLayers(), ["k_proj"], rank=2, alpha=2, seed=0)
    with pytest.raises(ValueError, match="called k_proj or v_proj: there are o_proj, q_proj"):
        add_lora(TwoLayers(), ["q_proj", "k_proj", "v_proj"], rank=2, alpha=2, seed=0)
    with pytest.raises(ValueError, match="called anything"):
        add_lora(TwoLayers(), [], rank=2, alpha=2, seed=0)


def test_the_first_pattern_that_fits_a_layer_gives_its_rank_and_alpha() -> None:
    model = TwoLayers()
    weights = add_lora(
        model, ["q_proj", "o_proj"], rank=2, alpha=4, seed=0, rank_stabilized=True,
        ranks={"o_.*": 5, ".*": 2}, alphas={"q_proj": 9.0},
    )  # fmt: skip
    assert weights["q_proj.lora_A"].shape == (2, 4)
    assert weights["o_proj.lora_A"].shape == (5, 6)
    with torch.no_grad():
        weights["q_proj.lora_B"].copy_(torch.randn(6, 2))
    adapter = model.get_submodule("q_proj")
    assert isinstance(adapter, LoraLinear)
    x = torch.randn(3, 4)
    scale = 9.0 / 2**0.5
    update = scale * weights["q_proj.lora_B"] @ weights["q_proj.lora_A"]
    torch.testing.assert_close(adapter(x), adapter.base(x) + x @ update.T)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("k_proj", "'k_proj' decides about no layer"), ("(", "is no regular expression")],
)
def test_a_pattern_that_fits_no_layer_is_rejected(pattern: str, message: str) -> None:
    for patterns in ({"ranks": {pattern: 3}}, {"alphas": {pattern: 3}}):
        with pytest.raises(ValueError, match=message):
            add_lora(TwoLayers(), ["q_proj"], rank=2, alpha=2, seed=0, **patterns)  # type: ignore[arg-type]  # either of them
    with pytest.raises(ValueError, match="'q_proj' decides about no layer"):
        add_lora(TwoLayers(), ["q_proj"], rank=2, alpha=2, seed=0, ranks={"q.*": 1, "q_proj": 3})


def test_what_is_dropped_does_not_depend_on_a_split_of_the_inputs() -> None:
    base, x = nn.Linear(6, 3, bias=False), torch.randn(5, 6)
    draw = torch.Generator().manual_seed(1)
    whole = LoraLinear(base, rank=2, alpha=8, generator=draw, dropout=0.4)
    with torch.no_grad():
        whole.lora_B.copy_(torch.randn(3, 2))
    torch.manual_seed(9)
    wanted = whole(x)
    parts, ranges = [], ((0, 4), (4, 6))
    for first, stop in ranges:
        part_base = nn.Linear(stop - first, 3, bias=False)
        part_base.weight = nn.Parameter(base.weight[:, first:stop].clone())
        part = LoraLinear(part_base, rank=2, alpha=8, generator=draw, dropout=0.4)
        part.inputs = SplitInputs(first=first, num_inputs=6, group=SoloGroup())
        with torch.no_grad():
            part.lora_A.copy_(whole.lora_A[:, first:stop])
            part.lora_B.copy_(whole.lora_B)
        torch.manual_seed(9)
        parts.append(part(x[:, first:stop]))
    torch.testing.assert_close(parts[0] + parts[1], wanted)
    whole.eval()
    assert not torch.allclose(whole(x), wanted)
