"""Samples as the rows of one forward: padded, one sample a row, or packed, all in one row."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.training.training_data import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRows:
    """Tokens as a model reads them."""

    inputs: dict[str, Tensor]
    """The model's arguments."""
    is_learned: Tensor
    """Whether the token after a position is learned, [B, T], bool."""
    learned: Tensor
    """The tokens to learn, [N], in the order of `is_learned`."""

    @classmethod
    def of(cls, samples: Sequence[Sample], *, packed: bool) -> "TokenRows":
        """Return samples as rows."""
        return _packed(samples) if packed else _padded(samples)


def _padded(samples: Sequence[Sample]) -> TokenRows:
    length = max(len(sample.token_ids) for sample in samples)
    ids = torch.zeros((len(samples), length), dtype=torch.int64)
    there = torch.zeros((len(samples), length), dtype=torch.int64)
    is_learned = torch.zeros((len(samples), length), dtype=torch.bool)
    for row, sample in enumerate(samples):
        size = len(sample.token_ids)
        ids[row, :size] = torch.tensor(sample.token_ids)
        there[row, :size] = 1
        is_learned[row] = _is_learned(sample, length)
    inputs = {"input_ids": ids, "attention_mask": there}
    return TokenRows(inputs=inputs, is_learned=is_learned, learned=ids[:, 1:][is_learned[:, :-1]])


def _packed(samples: Sequence[Sample]) -> TokenRows:
    """Return one row of all tokens, whose positions start at 0 in each sample.

    Positions that start again, without an attention mask, make transformers keep each sample's
    attention to itself (`find_packed_sequence_indices` in its masking_utils.py).
    """
    ids = torch.tensor([[token for sample in samples for token in sample.token_ids]])
    positions = torch.cat([torch.arange(len(sample.token_ids)) for sample in samples])
    is_learned = torch.cat([_is_learned(sample, len(sample.token_ids)) for sample in samples])
    learned = torch.tensor([s.token_ids[index] for s in samples for index in s.learned_positions])
    inputs = {"input_ids": ids, "position_ids": positions.unsqueeze(0)}
    return TokenRows(inputs=inputs, is_learned=is_learned.unsqueeze(0), learned=learned)


def _is_learned(sample: Sample, length: int) -> Tensor:
    """Return where the next token is learned, in a row of so many tokens."""
    is_learned = torch.zeros(length, dtype=torch.bool)
    for first, stop in sample.parts:
        is_learned[first - 1 : stop - 1] = True
    return is_learned
