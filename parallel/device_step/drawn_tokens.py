"""Draw the tokens of a step's scored rows where their logits are, and test the drafts by them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from parallel.device_kernels.step_kernels import StepKernels
from parallel.device_step.step_shape import StepArrays
from parallel.group import Group

# Shape suffixes: L = scored rows, V = tokens of this rank, C = candidates, S = sequences,
# N = nodes of a draft.

NOISE_BLOCK = 4
"""Tokens whose noise is computed together."""
_ALIGNMENT = 4  # words; 16 bytes, which compiled kernels count on


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyPart:
    """The tokens whose logits a rank holds."""

    first: int
    """The first of them, a multiple of `NOISE_BLOCK`."""
    widest: int
    """The most tokens that any rank holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnTokens:
    """What the scored rows of a step draw, and what that makes of its drafts.

    Both are in one buffer, so that the host gets them in one copy.
    """

    words: Tensor
    """Int32."""
    num_rows: int
    num_nodes: int

    @classmethod
    def empty(
        cls, num_rows: int, num_sequences: int, num_nodes: int, device: torch.device
    ) -> "DrawnTokens":
        """Return room for the tokens of rows, and for the verdicts on drafts of up to N nodes."""
        num_words = _aligned(num_rows) + num_sequences * (2 + num_nodes)
        words = torch.empty(num_words, dtype=torch.int32, device=device)
        return cls(words=words, num_rows=num_rows, num_nodes=num_nodes)

    @property
    def tokens(self) -> Tensor:
        """[L], the rows' tokens as `StepKernels.choose_tokens` writes them."""
        return self.words[: self.num_rows]

    @property
    def verdicts(self) -> Tensor:
        """[S, 2 + N], the sequences' verdicts as `StepKernels.match_drafts` writes them."""
        return self.words[_aligned(self.num_rows) :].view(-1, 2 + self.num_nodes)

    def cpu(self) -> "DrawnTokens":
        """Return them in memory of the host; waits for the device."""
        return replace(self, words=self.words.cpu())

    def clone(self) -> "DrawnTokens":
        """Return a copy."""
        return replace(self, words=self.words.clone())


def drawn_tokens(
    kernels: StepKernels,
    logits_LV: Tensor,
    arrays: StepArrays[Tensor],
    part: VocabularyPart,
    group: Group,
) -> DrawnTokens:
    """Return the token that each row draws and the verdict on each draft, the same on every rank.

    The host waits for nothing. Ranks exchange a few candidates of each row, not its logits.

    Args:
        kernels: the device's.
        logits_LV: this rank's logits of the first L scored rows, float32.
        arrays: the step's draws and drafts.
        part: which tokens the logits are of.
        group: the ranks; all must call it.
    """
    num_rows, num_tokens = logits_LV.shape
    num_sequences, num_nodes = arrays.node_tokens.shape
    drawn = DrawnTokens.empty(num_rows, num_sequences, num_nodes, logits_LV.device)
    if not num_rows:
        return drawn
    draws_L4 = arrays.draws[:num_rows]
    places = (num_rows, kernels.num_candidates(num_tokens), 3)
    candidates_LC3 = torch.empty(places, dtype=torch.float64, device=logits_LV.device)
    kernels.score_tokens(logits_LV, draws_L4, candidates_LC3, first_token=part.first)
    if group.size > 1:
        missing = kernels.num_candidates(part.widest) - places[1]
        if missing:  # shards differ in width: a candidate that is there twice changes nothing
            again_LC3 = candidates_LC3[:, :1].expand(-1, missing, -1)
            candidates_LC3 = torch.cat((candidates_LC3, again_LC3), dim=1)
        parts = group.all_gather(candidates_LC3)
        candidates_LC3 = torch.cat(parts.unbind(), dim=1)
    kernels.choose_tokens(candidates_LC3, draws_L4, drawn.tokens)
    kernels.match_drafts(
        drawn.tokens,
        arrays.drafts,
        arrays.node_tokens,
        arrays.node_parents,
        drawn.verdicts,
    )
    return drawn


def _aligned(num_words: int) -> int:
    return -(-num_words // _ALIGNMENT) * _ALIGNMENT
