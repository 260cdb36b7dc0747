"""Transforms match transformers, draws their distribution, and candidates whole rows."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from parallel.decoding.rng import Purpose, uniforms
from parallel.decoding.sampling import distribution, num_candidates, ranked, sample, truncate
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import RngKey, SamplingParams
from parallel.decoding.verify import draft_token_with_probs

KEY = RngKey(seed=5, request=17)
PARAMS = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.6),
    SamplingParams(temperature=1.3, top_k=7),
    SamplingParams(temperature=0.8, top_p=0.9),
    SamplingParams(temperature=0.8, top_p=0.3),
    SamplingParams(temperature=1.0, min_p=0.1),
    SamplingParams(temperature=0.9, repetition_penalty=1.3),
    SamplingParams(temperature=0.7, top_k=40, top_p=0.95, min_p=0.02, repetition_penalty=1.1),
    SamplingParams(temperature=2.0, top_k=900, top_p=0.99),
]
HISTORY = (3, 3, 8, 50, 11)


def random_logits(seed: int, size: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * spread


def whole(logits: torch.Tensor) -> ScoreRow:
    return ScoreRow(logits, None)


def best_of(logits: torch.Tensor, num: int) -> ScoreRow:
    best = logits.topk(num)
    shuffled = torch.randperm(num, generator=torch.Generator().manual_seed(num))
    return ScoreRow(best.values[shuffled], best.indices[shuffled])


def dense(row: ScoreRow, params: SamplingParams, size: int) -> np.ndarray:
    next_probs = distribution(row, params, HISTORY)
    probs = np.zeros(size)
    probs[next_probs.ids] = next_probs.probs
    return probs


def transformers_probs(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    ids, scores = torch.tensor([HISTORY]), logits[None].clone()
    if params.repetition_penalty != 1:
        scores = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(ids, scores)
    scores = TemperatureLogitsWarper(params.temperature)(ids, scores)
    if params.top_k:
        scores = TopKLogitsWarper(params.top_k)(ids, scores)
    if params.top_p < 1:
        scores = TopPLogitsWarper(params.top_p)(ids, scores)
    if params.min_p:
        scores = MinPLogitsWarper(params.min_p)(ids, scores)
    return torch.as_tensor(scores)[0].double().softmax(dim=-1)


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("spread", [0.5, 3.0, 9.0])
def test_the_distribution_is_that_of_transformers(params: SamplingParams, spread: float) -> None:
    for seed, size in enumerate((60, 1000, 5000)):
        logits = random_logits(seed, size, spread)
        expected = transformers_probs(logits, params).numpy()
        got = dense(whole(logits), params, size)
        assert ((got > 0) == (expected > 0)).all()
        np.testing.assert_allclose(got, expected, atol=1e-6)
        assert got.sum() == pytest.approx(1)


def test_ties_at_the_edge_of_top_k_keep_the_lowest_ids() -> None:
    logits = torch.tensor([0.0, 2.0, 1.0, 1.0, 3.0, 1.0])
    params = SamplingParams(temperature=1.0, top_k=3)
    assert distribution(whole(logits), params).ids.tolist() == [1, 2, 4]
    kept_there = transformers_probs(logits, params).numpy() > 0
    assert np.flatnonzero(kept_there).tolist() == [1, 2, 3, 4, 5]


def test_ties_at_the_edge_of_top_p_keep_the_lowest_ids() -> None:
    logits = torch.tensor([0.25, 0.1, 0.25, 0.15, 0.25]).log()
    params = SamplingParams(temperature=1.0, top_p=0.45)
    assert distribution(whole(logits), params).ids.tolist() == [0, 2]
    kept_there = transformers_probs(logits, params) > 0
    assert sorted(logits[kept_there].tolist()) == sorted(logits[[0, 2]].tolist())


def test_many_ties_give_sets_of_the_size_transformers_gives_for_top_p() -> None:
    for seed in range(30):
        logits = random_logits(seed, 400).round()
        params = SamplingParams(temperature=0.9, top_p=0.31 + seed / 100)
        kept_there = transformers_probs(logits, params) > 0
        ours = distribution(whole(logits), params).ids
        assert logits[ours].sort().values.tolist() == logits[kept_there].sort().values.tolist()


def test_a_nucleus_beyond_the_first_look_is_found_whole() -> None:
    logits = random_logits(2, 30_000, 0.3)
    params = SamplingParams(temperature=1.0, top_p=0.5)
    expected = transformers_probs(logits, params).numpy() > 0
    got = dense(whole(logits), params, 30_000) > 0
    assert expected.sum() > 5000
    assert (got != expected).sum() <= 1  # single precision sums there, double here


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(), 1),
        (SamplingParams(top_k=7), 1),
        (SamplingParams(repetition_penalty=1.2), None),
        (SamplingParams(presence_penalty=-0.1), None),
        (SamplingParams(frequency_penalty=0.1), None),
        (SamplingParams(logit_bias=((3, 1.0),)), None),
        (SamplingParams(min_tokens=1), None),
        (SamplingParams(temperature=1.0), None),
        (SamplingParams(temperature=1.0, top_p=0.5), None),
        (SamplingParams(temperature=1.0, top_k=7, top_p=0.5), 7),
        (SamplingParams(temperature=1.0, top_k=7, repetition_penalty=0.9), None),
    ],
)
def test_candidates_are_as_few_as_exactness_allows(
    params: SamplingParams, expected: int | None
) -> None:
    assert num_candidates(params) == expected


@pytest.mark.parametrize("params", [p for p in PARAMS if num_candidates(p)] + [SamplingParams()])
def test_gathered_candidates_give_what_the_whole_row_gives(params: SamplingParams) -> None:
    for seed in range(20):
        logits = random_logits(seed, 1000)
        num = num_candidates(params)
        assert num is not None
        few = best_of(logits, num)
        np.testing.assert_allclose(
            dense(few, params, 1000), dense(whole(logits), params, 1000), rtol=1e-12
        )
        for position in range(5):
            token = sample(whole(logits), params, KEY, position)
            assert sample(few, params, KEY, position) == token


def test_greedy_takes_the_lowest_id_of_the_best() -> None:
    row = whole(torch.tensor([1.0, 5.0, 2.0, 5.0]))
    assert sample(row, SamplingParams(), KEY, 0) == 1
    assert distribution(row, SamplingParams()).ids.tolist() == [1]
    shuffled = ScoreRow(torch.tensor([5.0, 5.0, 2.0]), torch.tensor([3, 1, 2]))
    assert sample(shuffled, SamplingParams(), KEY, 0) == 1


def test_greedy_obeys_the_repetition_penalty() -> None:
    params = SamplingParams(repetition_penalty=3.0)
    row = whole(torch.tensor([3.0, -1.0, 2.0]))
    assert sample(row, params, KEY, 0) == 0
    assert sample(row, params, KEY, 0, (0, 0)) == 2
    negative = whole(torch.tensor([-1.0, -2.0]))
    assert sample(negative, params, KEY, 0, (0,)) == 1


def test_a_sample_is_gumbel_max_with_noise_by_token_id() -> None:
    logits = random_logits(0, 300)
    noise = -np.log(-np.log(uniforms(KEY, 4, Purpose.SAMPLE, 300)))
    best = int(np.argmax(logits.numpy().astype(np.float64) / 0.7 + noise))
    assert sample(whole(logits), SamplingParams(temperature=0.7), KEY, 4) == best


def test_noise_of_few_of_many_tokens_is_that_of_the_whole_row() -> None:
    logits = random_logits(3, 100_000)
    params = SamplingParams(temperature=1.0, top_k=20)
    noise = -np.log(-np.log(uniforms(KEY, 0, Purpose.SAMPLE, 100_000)))
    top = logits.topk(20).indices.numpy()
    best = int(top[np.argmax(logits.numpy()[top].astype(np.float64) + noise[top])])
    assert sample(whole(logits), params, KEY, 0) == best
    assert sample(best_of(logits, 20), params, KEY, 0) == best


@pytest.mark.parametrize("params", [PARAMS[0], SamplingParams(temperature=1.2, top_k=4)])
def test_samples_follow_the_distribution(params: SamplingParams) -> None:
    row = whole(random_logits(1, 8, 1.0))
    next_probs = distribution(row, params)
    drawn = np.bincount([sample(row, params, KEY, i) for i in range(6000)], minlength=8)
    assert drawn.sum() == drawn[next_probs.ids].sum()
    assert chisquare(drawn[next_probs.ids], next_probs.probs * 6000).pvalue > 1e-4


def test_drafts_with_a_distribution_follow_it_and_are_cut_to_the_best() -> None:
    row = whole(random_logits(1, 30, 1.0))
    params = SamplingParams(temperature=1.0)
    drawn = [draft_token_with_probs(row, params, KEY, i, max_support=5) for i in range(5000)]
    next_probs = drawn[0][1]
    cut = truncate(distribution(row, params), 5)
    assert next_probs.ids == tuple(cut.ids.tolist())
    assert set(next_probs.ids) == set(row.logits.topk(5).indices.tolist())
    assert sum(next_probs.probs) == pytest.approx(1)
    counts = [sum(token == t for token, _ in drawn) for t in next_probs.ids]
    assert chisquare(counts, np.array(next_probs.probs) * 5000).pvalue > 1e-4


def test_truncation_breaks_ties_by_lowest_id() -> None:
    next_probs = distribution(whole(torch.zeros(6)), SamplingParams(temperature=1.0))
    assert truncate(next_probs, 4).ids.tolist() == [0, 1, 2, 3]
    assert truncate(next_probs, 9) is next_probs


def test_masked_tokens_are_never_in_the_distribution() -> None:
    row = whole(torch.tensor([0.0, float("-inf"), 1.0]))
    for params in (SamplingParams(temperature=1.0), SamplingParams(temperature=1.0, top_p=0.99)):
        assert distribution(row, params).ids.tolist() == [0, 2]
        assert all(sample(row, params, KEY, i) != 1 for i in range(50))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_rejected(bad: float) -> None:
    with pytest.raises(ValueError, match=r"must be finite; in float16 .* take bfloat16 or float32"):
        sample(whole(torch.tensor([0.0, bad])), SamplingParams(), KEY, 0)
    with pytest.raises(ValueError, match=r"must be finite"):
        distribution(whole(torch.full((3,), float("-inf"))), SamplingParams(temperature=1.0))


def test_a_penalty_on_a_partial_row_is_rejected() -> None:
    params = SamplingParams(temperature=1.0, repetition_penalty=1.2)
    with pytest.raises(ValueError, match="whole vocabulary"):
        sample(best_of(random_logits(0, 20), 5), params, KEY, 0)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.7, top_k=9),
        SamplingParams(temperature=1.3, top_p=0.8, min_p=0.01),
        SamplingParams(temperature=0.8, repetition_penalty=1.4),
    ],
)
def test_tokens_are_ranked_as_a_draw_without_the_better_ones_takes_them(
    params: SamplingParams,
) -> None:
    key, history = RngKey(seed=3, request=8), (4, 5, 5)
    row = ScoreRow(torch.randn(40, generator=torch.Generator().manual_seed(2)) * 3, None)
    for position in range(20):
        found = ranked(row, params, key, position, history, num=4)
        assert [each.score for each in found] == sorted((f.score for f in found), reverse=True)
        assert found[0].token == sample(row, params, key, position, history)
        allowed = distribution(row, params, history)
        if params.is_greedy:
            order = torch.argsort(-row.logits, stable=True)[:4].tolist()
        else:
            noise = -np.log(-np.log(uniforms(key, position, Purpose.SAMPLE, 40)))[allowed.ids]
            order = allowed.ids[np.argsort(-(np.log(allowed.probs) + noise))][:4].tolist()
        assert [each.token for each in found] == order
