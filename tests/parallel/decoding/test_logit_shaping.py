"""Biases, held-back ends and penalties, as defined by others, and under both verifiers."""

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from parallel.decoding.logit_shaping import shaped
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import DraftTree, RngKey, SamplingParams, SparseProbs
from parallel.decoding.verify import (
    Verifier,
    draft_token,
    draft_token_with_probs,
    recursive_rejection,
    sample_and_match,
)

PROMPT, OUTPUT = (3, 3, 8), (50, 11, 50)
HISTORY = PROMPT + OUTPUT
ALL = SamplingParams(
    temperature=1.0,
    repetition_penalty=1.2,
    presence_penalty=0.7,
    frequency_penalty=-0.4,
    logit_bias=((0, 1.5), (2, -0.8)),
    min_tokens=2,
    end_ids=(3,),
)


def logits_of(seed: int, size: int = 60) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3


def test_biases_ends_and_the_repetition_penalty_are_those_of_transformers() -> None:
    params = SamplingParams(
        logit_bias=((8, 4.0), (11, -7.5)),
        min_tokens=5,
        end_ids=(1, 50),
        repetition_penalty=1.7,
    )
    ids = torch.tensor([HISTORY])
    for seed in range(20):
        logits = logits_of(seed)
        scores = logits[None].clone()
        scores = SequenceBiasLogitsProcessor({(8,): 4.0, (11,): -7.5})(ids, scores)
        scores = RepetitionPenaltyLogitsProcessor(1.7)(ids, scores)
        held = MinNewTokensLengthLogitsProcessor(len(PROMPT), 5, [1, 50], device="cpu")
        scores = held(ids, scores)
        got = shaped(logits.numpy(), params, HISTORY, len(OUTPUT))
        np.testing.assert_allclose(got, scores[0].numpy(), rtol=1e-6)


def test_an_end_may_be_drawn_once_there_are_enough_tokens() -> None:
    params = SamplingParams(min_tokens=3, end_ids=(1,))
    logits = logits_of(0).numpy()
    for position in range(5):
        is_held = math.isinf(shaped(logits, params, (), position)[1])
        assert is_held == (position < 3)


def test_presence_counts_a_token_of_the_output_once_and_frequency_each_time() -> None:
    logits = np.zeros(60, dtype=np.float32)
    presence = shaped(logits, SamplingParams(presence_penalty=0.5), HISTORY, len(OUTPUT))
    frequency = shaped(logits, SamplingParams(frequency_penalty=0.5), HISTORY, len(OUTPUT))
    assert {i: x for i, x in enumerate(presence.tolist()) if x} == {50: -0.5, 11: -0.5}
    assert {i: x for i, x in enumerate(frequency.tolist()) if x} == {50: -1.0, 11: -0.5}
    first = shaped(logits, SamplingParams(presence_penalty=2, frequency_penalty=2), PROMPT, 0)
    assert not first.any()  # the prompt does not count


def test_a_drafter_that_knows_fewer_tokens_skips_the_others() -> None:
    params = SamplingParams(logit_bias=((1, 2.0), (70, 3.0)), min_tokens=1, end_ids=(2, 99))
    got = shaped(np.zeros(4, dtype=np.float32), params, (), 0)
    assert got.tolist() == [0.0, 2.0, -math.inf, 0.0]


def test_holding_back_every_token_is_an_error() -> None:
    params = SamplingParams(min_tokens=1, end_ids=(0, 1))
    with pytest.raises(ValueError, match="every token ends the output"):
        shaped(np.zeros(2, dtype=np.float32), params, (), 0)


# --- on a toy of four tokens, whose three-token outputs are enumerated ------------------------

VOCAB, LENGTH, START = 4, 3, (1, 2)
TARGET = np.log([[5, 3, 1, 1], [2, 2, 3, 3], [4, 1, 2, 3], [1, 3, 3, 3]])
DRAFTER = np.log([[3, 3, 2, 2], [3, 2, 3, 2], [3, 1, 3, 3], [2, 3, 2, 3]])


def exact_probs(tokens: tuple[int, ...]) -> np.ndarray:
    """Return the next token's distribution after some output, in double precision by definition."""
    known = START + tokens
    scores = TARGET[known[-1]].copy()
    for token in range(VOCAB):
        scores[token] += dict(ALL.logit_bias).get(token, 0.0)
        if token in known:
            scores[token] *= 1.2 if scores[token] < 0 else 1 / 1.2
        scores[token] -= 0.7 * (token in tokens) - 0.4 * tokens.count(token)
        if token in ALL.end_ids and len(tokens) < ALL.min_tokens:
            scores[token] = -np.inf
    weights = np.exp(scores)
    return np.asarray(weights / weights.sum())


def generated(verifier: Verifier, key: RngKey) -> tuple[tuple[int, ...], int]:
    """Return three tokens that drafts of two help to make, and how many drafts were accepted."""
    known, num_accepted = list(START), 0

    def row(logits: np.ndarray, token: int) -> ScoreRow:
        return ScoreRow(torch.tensor(logits[token], dtype=torch.float32), None)

    while (position := len(known) - len(START)) < LENGTH:
        ahead, probs = list(known), list[SparseProbs]()
        for offset in range(2):
            inputs = (row(DRAFTER, ahead[-1]), ALL, key, position + offset, ahead)
            if verifier is sample_and_match:
                ahead.append(draft_token(*inputs))
            else:
                token, drawn_from = draft_token_with_probs(*inputs)
                ahead.append(token)
                probs.append(drawn_from)
        draft = DraftTree.chain(tuple(ahead[len(known) :]), tuple(probs))
        rows = [row(TARGET, token) for token in ahead[len(known) - 1 :]]
        verdict = verifier(draft, rows, ALL, key, position, known)
        assert verdict.next_token is not None
        num_accepted += verdict.num_accepted
        known += [*draft.token_ids[: verdict.num_accepted], verdict.next_token]
    return tuple(known[len(START) :][:LENGTH]), num_accepted


@pytest.mark.parametrize("verifier", [sample_and_match, recursive_rejection])
def test_drafted_outputs_follow_the_exact_distribution(verifier: Verifier) -> None:
    num, accepted, found = 2000, 0, Counter[tuple[int, ...]]()
    for request in range(num):
        tokens, num_accepted = generated(verifier, RngKey(seed=11, request=request))
        found[tokens] += 1
        accepted += num_accepted
    assert accepted > num  # speculation was active
    expected = {}
    for tokens in product(range(VOCAB), repeat=LENGTH):
        steps = [exact_probs(tokens[:n])[tokens[n]] for n in range(LENGTH)]
        expected[tokens] = num * math.prod(steps)
    assert all(expected[tokens] > 0 for tokens in found)
    possible = [tokens for tokens, count in expected.items() if count > 0]
    assert len(possible) == 3 * 3 * 4  # the end is held back at the first two positions
    counts = [found[tokens] for tokens in possible]
    assert chisquare(counts, [expected[tokens] for tokens in possible]).pvalue > 1e-3
