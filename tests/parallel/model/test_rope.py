"""Rotations of pairs: against rotation matrices, and in any order of the rows."""

import math

import pytest
import torch

from parallel.model.model_config import RopeConfig
from parallel.model.rope import RotaryTable, interleave, inverse_frequencies, rotate_

CPU = torch.device("cpu")


def test_pairs_turn_by_position_times_frequency() -> None:
    rope = RopeConfig(theta=100.0)
    assert inverse_frequencies(rope, 4).tolist() == pytest.approx([1.0, 0.1])
    x = torch.tensor([[[1.0, 0.0, 0.0, 2.0]]])  # one token, one head, two pairs
    rotate_(x, RotaryTable(rope, 4, 8, device=CPU).at(torch.tensor([3])))
    expected = [math.cos(3), math.sin(3), -2 * math.sin(0.3), 2 * math.cos(0.3)]
    assert x.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_interleaved_weights_give_the_scores_of_rotated_halves() -> None:
    torch.manual_seed(0)
    heads, head_dim, width = 2, 8, 5
    weights = [torch.randn(heads * head_dim, width) for _ in range(2)]
    x = torch.randn(3, width)
    angles = torch.outer(torch.arange(3.0), inverse_frequencies(RopeConfig(theta=50.0), head_dim))
    cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)

    def halves(weight: torch.Tensor) -> torch.Tensor:  # as transformers rotates
        first, second = (x @ weight.T).view(3, heads, 2, head_dim // 2).unbind(2)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def pairs(weight: torch.Tensor) -> torch.Tensor:
        rows = (x @ interleave(weight, head_dim).T).view(3, heads, head_dim)
        rotate_(
            rows, RotaryTable(RopeConfig(theta=50.0), head_dim, 3, device=CPU).at(torch.arange(3))
        )
        return rows

    expected = torch.einsum("qhd,khd->hqk", *map(halves, weights))
    found = torch.einsum("qhd,khd->hqk", *map(pairs, weights))
    torch.testing.assert_close(found, expected)


def test_half_precision_rotates_in_float32_and_rounds_once() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 1, 4)
    turns = RotaryTable(RopeConfig(theta=10.0), 4, 8, device=CPU).at(torch.tensor([5, 2]))
    half = x.to(torch.bfloat16)
    exact = half.float()
    rotate_(half, turns)
    rotate_(exact, turns)
    assert torch.equal(half, exact.to(torch.bfloat16))


def test_linear_stretching_divides_every_angle() -> None:
    plain = inverse_frequencies(RopeConfig(theta=100.0), 8)
    stretched = inverse_frequencies(RopeConfig(theta=100.0, kind="linear", factor=4.0), 8)
    torch.testing.assert_close(stretched, plain / 4)
