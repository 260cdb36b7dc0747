"""How far a model's scores are from those of a more precise reading of the same weights."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Shapes: T = scored tokens, V = vocabulary.


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreQuality:
    """Sums over scored tokens; those of several texts are added."""

    num_tokens: int = 0
    nll: float = 0.0
    """Negative log-likelihood of the texts' tokens, in nats."""
    reference_nll: float = 0.0
    kl: float = 0.0
    """Divergence of the scores from the reference's, KL(reference || scores), in nats."""
    num_agreed: int = 0
    """Tokens before which both have the same best one."""

    def __add__(self, other: "ScoreQuality") -> "ScoreQuality":
        """Return the sums over both."""
        return ScoreQuality(
            num_tokens=self.num_tokens + other.num_tokens,
            nll=self.nll + other.nll,
            reference_nll=self.reference_nll + other.reference_nll,
            kl=self.kl + other.kl,
            num_agreed=self.num_agreed + other.num_agreed,
        )

    @property
    def perplexity(self) -> float:
        """Perplexity of the texts."""
        return math.exp(self.nll / self.num_tokens)

    @property
    def reference_perplexity(self) -> float:
        """Perplexity of the texts by the reference."""
        return math.exp(self.reference_nll / self.num_tokens)

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity over that of the reference."""
        return math.exp((self.nll - self.reference_nll) / self.num_tokens)

    @property
    def mean_kl(self) -> float:
        """Mean divergence of a token, in nats."""
        return self.kl / self.num_tokens

    @property
    def agreement(self) -> float:
        """Share of the tokens before which both have the same best one."""
        return self.num_agreed / self.num_tokens


def compare_scores(logits_TV: Tensor, reference_TV: Tensor, token_ids: Tensor) -> ScoreQuality:
    """Compare the scores before some tokens with a reference's.

    Args:
        logits_TV: the scores, [T, V].
        reference_TV: those of the reference, [T, V].
        token_ids: the tokens that followed, [T].
    """
    log_probs = torch.log_softmax(logits_TV.double(), dim=-1)
    reference = torch.log_softmax(reference_TV.double(), dim=-1)
    at = token_ids.unsqueeze(1)
    return ScoreQuality(
        num_tokens=len(token_ids),
        nll=-float(log_probs.gather(1, at).sum()),
        reference_nll=-float(reference.gather(1, at).sum()),
        kl=float((reference.exp() * (reference - log_probs)).sum()),
        num_agreed=int((logits_TV.argmax(dim=-1) == reference_TV.argmax(dim=-1)).sum()),
    )
