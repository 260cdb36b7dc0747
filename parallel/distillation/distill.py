"""Divergences of a drafter's next-token distribution from its teacher's (arXiv 2310.08461).

The teacher's probabilities are known for its k best tokens. All other tokens together are one more
outcome of both distributions, so each divergence is a lower bound of the full one, 0 at equality.
"""

from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor

# Shape suffixes: N = positions, K = tokens of the drafter's head, C = teacher's candidates,
# B = C + 1 outcomes.

_TINY = 1e-8


class Divergence(StrEnum):
    """The loss that training minimizes."""

    FORWARD_KL = "forward-kl"
    """KL(teacher | drafter): the drafter covers all tokens that the teacher may choose."""
    REVERSE_KL = "reverse-kl"
    """KL(drafter | teacher): the drafter concentrates on the teacher's likely tokens."""
    TOTAL_VARIATION = "total-variation"
    """1 - the acceptance rate of speculative sampling, which is the goal itself."""


def outcomes(
    logits_NK: Tensor, columns_NC: Tensor, teacher_probs_NC: Tensor
) -> tuple[Tensor, Tensor]:
    """Return log probabilities of drafter and teacher over the same outcomes, each [N, C + 1].

    Args:
        logits_NK: the drafter's logits over the tokens of its head.
        columns_NC: the head's column of each teacher candidate; -1 where the head lacks it.
        teacher_probs_NC: the teacher's probabilities of its candidates.
    """
    logits_NK = logits_NK.float()
    known_NC = columns_NC >= 0
    total_N1 = logits_NK.logsumexp(1, keepdim=True)
    log_q_NC = logits_NK.gather(1, columns_NC.clamp_min(0)) - total_N1
    # Tokens that the head lacks have probability 0 there and count as "any other token".
    q_NC = log_q_NC.exp() * known_NC
    p_NC = teacher_probs_NC * known_NC
    rest_q_N1 = (1 - q_NC.sum(1, keepdim=True)).clamp_min(_TINY)
    rest_p_N1 = (1 - p_NC.sum(1, keepdim=True)).clamp_min(_TINY)
    log_q_NB = torch.cat([log_q_NC.masked_fill(~known_NC, 0), rest_q_N1.log()], dim=1)
    log_p_NB = torch.cat([p_NC.clamp_min(_TINY).log(), rest_p_N1.log()], dim=1)
    return log_q_NB, log_p_NB.masked_fill(F.pad(~known_NC, (0, 1)), 0)


def divergence(
    kind: Divergence, logits_NK: Tensor, columns_NC: Tensor, teacher_probs_NC: Tensor
) -> Tensor:
    """Return the divergence at each position, [N]; see `outcomes` for the arguments."""
    log_q_NB, log_p_NB = outcomes(logits_NK, columns_NC, teacher_probs_NC)
    counted = F.pad((columns_NC >= 0).float(), (0, 1), value=1.0)
    q_NB, p_NB = log_q_NB.exp(), log_p_NB.exp()
    match kind:
        case Divergence.FORWARD_KL:
            terms = p_NB * (log_p_NB - log_q_NB)
        case Divergence.REVERSE_KL:
            terms = q_NB * (log_q_NB - log_p_NB)
        case Divergence.TOTAL_VARIATION:
            terms = (p_NB - q_NB).abs() / 2
    return (terms * counted).sum(1)
