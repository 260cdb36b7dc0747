"""A logistic regression by exact scalars, by bytes, and by signs alone."""

import numpy as np
import torch
from torch import Tensor

from parallel.training.shared_seed.byte_codec import FRACTION_BITS, decode, encode
from parallel.training.shared_seed.directions import Direction, signs

SIZE, RECORDS, MACHINES, ROUNDS, SEED = 200, 2000, 8, 700, 4
EPS, LR = 1e-3, 4e-3


def problem() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((RECORDS, SIZE))
    truth = rng.standard_normal(SIZE) * 3 / np.sqrt(SIZE)
    y = np.where(rng.random(RECORDS) < 1 / (1 + np.exp(-x @ truth)), 1.0, -1.0)
    return torch.from_numpy(x), torch.from_numpy(y)


def final_loss(mode: str) -> float:
    """Descend by one direction of each machine and round; return the loss on all records."""
    x, y = problem()
    xy = x * y.unsqueeze(1)
    rng = np.random.default_rng(1)
    theta = torch.zeros(SIZE, dtype=torch.float64)
    for number in range(ROUNDS):
        drawn = signs(SEED, [Direction(number, m, 0) for m in range(MACHINES)], SIZE).double()
        batch = xy[torch.from_numpy(rng.integers(0, RECORDS, (MACHINES, 64)))]  # [M, 64, P]
        points = torch.stack([theta + EPS * drawn, theta - EPS * drawn], dim=2)  # [M, P, 2]
        losses = torch.nn.functional.softplus(-batch @ points).mean(dim=1)
        exact = ((losses[:, 0] - losses[:, 1]) / (2 * EPS)).tolist()
        if mode == "byte":
            exact = [decode(encode(g, 1.0)) / (1 << FRACTION_BITS) for g in exact]
        elif mode == "sign":
            exact = [0.8 * (1 if g > 0 else -1) for g in exact]
        theta = theta - LR * (torch.tensor(exact, dtype=torch.float64) @ drawn) / MACHINES
    return float(torch.nn.functional.softplus(-xy @ theta).mean())


def test_a_byte_is_as_good_as_an_exact_scalar_and_a_sign_is_not() -> None:
    exact, byte, sign = (final_loss(mode) for mode in ("exact", "byte", "sign"))
    assert exact < 0.5 * np.log(2) + 0.5 * 0.4  # it has learned
    assert abs(byte / exact - 1) < 0.01
    assert sign > 1.02 * exact
