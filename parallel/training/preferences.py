"""Direct preference optimization: a loss of pairs of answers (Rafailov et al., arXiv 2305.18290).

P  pairs, each of the answer that is preferred and the one that is not
"""

import torch.nn.functional as F
from torch import Tensor


def reward_margins(policy_P2: Tensor, reference_P2: Tensor, *, beta: float) -> Tensor:
    """Return how far each chosen answer's implicit reward is above the rejected one's, [P].

    Equation 5 of the paper, without the part that both answers share.

    Args:
        policy_P2: log probabilities of the chosen and the rejected answer after their prompt.
        reference_P2: the same by the frozen reference.
        beta: weight of the distance from the reference.
    """
    gain_P2 = policy_P2 - reference_P2
    return beta * (gain_P2[:, 0] - gain_P2[:, 1])


def preference_losses(margins_P: Tensor, *, label_smoothing: float) -> Tensor:
    """Return each pair's loss, [P].

    Equation 7 of the paper; with `label_smoothing`, the share of pairs that are assumed to be the
    wrong way round (conservative DPO, Mitchell 2023).
    """
    right = F.logsigmoid(margins_P)
    wrong = F.logsigmoid(-margins_P)
    return -(1 - label_smoothing) * right - label_smoothing * wrong
