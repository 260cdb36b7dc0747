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
    places: Tensor
    """Where the next token is learned, [B, T], bool."""
    learned: Tensor
    """The tokens to learn, [N], in the order of the places."""

    @classmethod
    def of(cls, samples: Sequence[Sample], *, packed: bool) -> "TokenRows":
        """Return samples as rows."""
        return _packed(samples) if packed else _padded(samples)


def _padded(samples: Sequence[Sample]) -> TokenRows:
    length = max(len(sample.token_ids) for sample in samples)
    ids = torch.zeros((len(samples), length), dtype=torch.int64)
    there = torch.zeros((len(samples), length), dtype=torch.int64)
    places = torch.zeros((len(samples), length), dtype=torch.bool)
    for row, sample in enumerate(samples):
        size = len(sample.token_ids)
        ids[row, :size] = torch.tensor(sample.token_ids)
        there[row, :size] = 1
        places[row, sample.num_prompt - 1 : size - 1] = True
    inputs = {"input_ids": ids, "attention_mask": there}
    return TokenRows(inputs=inputs, places=places, learned=ids[:, 1:][places[:, :-1]])


def _packed(samples: Sequence[Sample]) -> TokenRows:
    """Return one row of all tokens, whose positions start at 0 in each sample.

    Positions that start again, without an attention mask, make transformers keep each sample's
    attention to itself (`find_packed_sequence_indices` in its masking_utils.py).
    """
    ids = torch.tensor([[token for sample in samples for token in sample.token_ids]])
    positions = torch.cat([torch.arange(len(sample.token_ids)) for sample in samples])
    places = torch.cat([_places(sample) for sample in samples])
    learned = torch.tensor([t for s in samples for t in s.token_ids[s.num_prompt :]])
    inputs = {"input_ids": ids, "position_ids": positions.unsqueeze(0)}
    return TokenRows(inputs=inputs, places=places.unsqueeze(0), learned=learned)


def _places(sample: Sample) -> Tensor:
    places = torch.arange(len(sample.token_ids))
    return (places >= sample.num_prompt - 1) & (places < len(sample.token_ids) - 1)
