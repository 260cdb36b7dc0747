"""Tokens are drawn over all ranks as the host draws them, whatever part of the logits each has."""

import numpy as np
import pytest
import torch
from torch import Tensor

from parallel.batch import SequenceRows, TokenDraw
from parallel.decoding.sampling import sample
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import RngKey, SamplingParams
from parallel.device_kernels import plain_draws
from parallel.device_kernels.plain_kernels import PlainKernels
from parallel.device_step.drawn_tokens import DrawnTokens, VocabularyPart, drawn_tokens
from parallel.device_step.step_packing import PackingRules, SequenceStep, needed_shape, pack
from parallel.device_step.step_shape import StepArrays, device_arrays
from parallel.group import SoloGroup
from parallel.model.sharding import padded_range
from tests.support.tiny_transformer import RankThread, on_ranks

KEY = RngKey(seed=2**64 - 9, request=0x9E3779B97F4A7C15)
TEMPERATURES = (0.0, 0.6, 1.0, 1.7)
BLOCK = 32


class BlockKernels(PlainKernels):
    """Leaves a candidate of each block of tokens, as kernels of a device do."""

    def num_candidates(self, num_tokens: int) -> int:
        return -(-num_tokens // BLOCK)

    def score_tokens(
        self, logits_LV: Tensor, draws_L4: Tensor, candidates_LC3: Tensor, *, first_token: int = 0
    ) -> None:
        for number, block in enumerate(torch.split(logits_LV, BLOCK, dim=1)):
            first = first_token + number * BLOCK
            candidates_LC3[:, number] = plain_draws.score(block, draws_L4, first)[:, 0]


def packed(rows: list[SequenceRows]) -> StepArrays[Tensor]:
    rules = PackingRules(page_size=4, windows=(None,), tile_rows=1)
    steps = [SequenceStep(rows=row, pages=[1, 0]) for row in rows]
    shape = needed_shape(steps, rules)
    buffer = np.empty(shape.num_words, dtype=np.int32)
    pack(steps, shape, rules, buffer)
    return device_arrays(torch.from_numpy(buffer), shape)


def single(place: int) -> SequenceRows:
    temperature = TEMPERATURES[place % 4]
    draw = TokenDraw(key=KEY, position=place, temperature=temperature)
    return SequenceRows(slot=place, start=0, token_ids=(1,), num_logits=1, draw=draw)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("vocab_size", [101, 130, 192])
def test_ranks_draw_what_the_host_draws_from_all_logits(vocab_size: int, size: int) -> None:
    logits = torch.randn(24, vocab_size, generator=torch.Generator().manual_seed(vocab_size))
    logits[::3] = logits[::3].round()  # ties
    arrays = packed([single(place) for place in range(24)])

    def drawn(group: RankThread) -> DrawnTokens:
        ranges = [padded_range(vocab_size, size, rank) for rank in range(size)]
        first, stop = ranges[group.rank]
        part = VocabularyPart(first=first, widest=max(b - a for a, b in ranges))
        return drawn_tokens(BlockKernels(), logits[:, first:stop], arrays, part, group)

    expected = [
        sample(ScoreRow(row, None), SamplingParams(temperature=TEMPERATURES[i % 4]), KEY, i)
        for i, row in enumerate(logits)
    ]
    for found in on_ranks(size, drawn):
        assert found.tokens.tolist() == expected
        assert found.verdicts.tolist() == [[0, token] for token in expected]
        assert found.cpu().clone().tokens.tolist() == expected


def test_drafts_are_tested_by_what_their_rows_draw() -> None:
    tree = SequenceRows(slot=0, start=2, token_ids=(1, 5, 7, 6), num_logits=4, parents=(-1, -1, 1))
    logits = torch.zeros(4, 16)
    for row, token in enumerate((7, 3, 6, 9)):  # after the root, then after each node
        logits[row, token] = 1.0
    part = VocabularyPart(first=0, widest=16)
    drawn = drawn_tokens(PlainKernels(), logits, packed([tree]), part, SoloGroup())
    assert drawn.tokens.tolist() == [7, 3, 6, 9]
    assert drawn.verdicts.tolist() == [[2, 9, 1, 2, -1]]


def test_a_step_that_scores_nothing_draws_nothing() -> None:
    rows = SequenceRows(slot=0, start=0, token_ids=(1, 2), num_logits=0)
    part = VocabularyPart(first=0, widest=8)
    drawn = drawn_tokens(PlainKernels(), torch.empty(0, 8), packed([rows]), part, SoloGroup())
    assert drawn.tokens.shape == (0,)
