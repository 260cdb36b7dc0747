"""Layers at several points in one forward equal one layer per point."""

import torch
from torch import nn

from parallel.training.grouped import GroupedLora, GroupedShift


def test_each_group_of_rows_sees_its_own_adapter() -> None:
    torch.manual_seed(0)
    base = nn.Linear(4, 3)
    layer = GroupedLora(base, rank=2, alpha=6)
    assert layer.sizes == (8, 6)
    down, up = torch.randn(2, 8), torch.randn(2, 6)
    layer.set_points(down, up)
    x = torch.randn(6, 5, 4)  # two groups of three sequences
    found = layer(x)
    for group in range(2):
        rows = slice(3 * group, 3 * group + 3)
        update = 3.0 * up[group].view(3, 2) @ down[group].view(2, 4)
        expected = x[rows] @ (base.weight + update).T + base.bias
        torch.testing.assert_close(found[rows], expected)


def test_an_adapter_without_points_is_the_layer_alone() -> None:
    base = nn.Linear(4, 3)
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(GroupedLora(base, rank=2, alpha=6)(x), base(x))


def test_each_group_of_rows_sees_its_own_shift() -> None:
    torch.manual_seed(0)
    base = nn.Linear(4, 3, bias=False)
    layer = GroupedShift(base)
    x = torch.randn(4, 5, 4)
    torch.testing.assert_close(layer(x), base(x))
    left, right = torch.randn(2, 3, 2), torch.randn(2, 4, 2)
    layer.set_points(left, right)
    found = layer(x)
    for group in range(2):
        rows = slice(2 * group, 2 * group + 2)
        expected = x[rows] @ (base.weight + left[group] @ right[group].T).T
        torch.testing.assert_close(found[rows], expected)
