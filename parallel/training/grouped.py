"""Linear layers at several points of their weights in one forward: one for each group of rows.

rows   G * B sequences, group after group
G      points;  B  sequences of each;  r  rank;  I, O  a layer's inputs and outputs
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupedLora(nn.Module):
    """A frozen linear layer plus a low-rank update for each group of rows."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.rank = rank
        self.down_GrI = torch.zeros(1, rank, base.in_features)
        self.up_GOr = torch.zeros(1, base.out_features, rank)
        self._scale = alpha / rank

    @property
    def sizes(self) -> tuple[int, int]:
        """Sizes of the matrices A and B."""
        return self.rank * self.base.in_features, self.base.out_features * self.rank

    def set_points(self, down_GN: Tensor, up_GN: Tensor) -> None:
        """Set the matrices A and B of each group, as rows of numbers."""
        num = len(down_GN)
        self.down_GrI = down_GN.view(num, self.rank, self.base.in_features)
        self.up_GOr = up_GN.view(num, self.base.out_features, self.rank)

    def forward(self, x: Tensor) -> Tensor:
        """Return [rows, T, O] of x, [rows, T, I]."""
        out: Tensor = self.base(x)
        num = len(self.down_GrI)
        inner = torch.bmm(x.reshape(num, -1, x.shape[-1]), self.down_GrI.mT)
        flat = out.reshape(num, -1, out.shape[-1])
        return torch.baddbmm(flat, inner, self.up_GOr.mT, alpha=self._scale).view_as(out)


class GroupedShift(nn.Module):
    """A linear layer that trains its own weight, shifted by U V^T in each group of rows."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.left_GOr: Tensor | None = None
        self.right_GIr: Tensor | None = None

    def set_points(self, left_GOr: Tensor, right_GIr: Tensor) -> None:
        """Set the factors of each group."""
        self.left_GOr, self.right_GIr = left_GOr, right_GIr

    def forward(self, x: Tensor) -> Tensor:
        """Return [rows, T, O] of x, [rows, T, I]."""
        out: Tensor = F.linear(x, self.base.weight, self.base.bias)
        if self.left_GOr is None or self.right_GIr is None:
            return out
        num = len(self.left_GOr)
        inner = torch.bmm(x.reshape(num, -1, x.shape[-1]), self.right_GIr)
        flat = out.reshape(num, -1, out.shape[-1])
        return torch.baddbmm(flat, inner, self.left_GOr.mT).view_as(out)
