"""Within a weight format, every way to decode gives the same tokens, from the same logits.

All modes and drafters, one to three ranks, alone and in a batch, resumed in the middle, and under
preemption. The tokens are those of transformers with the same numbers, but for near ties.
"""

import os
from functools import cache
from pathlib import Path

import pytest

from parallel.decoding.types import SamplingParams
from runtime.drafters.shipped import shipped_drafter
from tests.support.decoding_ways import (
    FORMATS,
    WAYS,
    Answers,
    StoredModel,
    answers,
    check_outcomes,
    check_way,
    plain_submits,
)
from tests.support.integration.runs import token_prompts
from tests.support.models import check_identity, smollm2_directory
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.tiny_transformer import tokens

SPEC_BENCH = (
    Path(__file__).resolve().parents[3] / "shared" / "data" / "prompts" / "spec_bench.jsonl"
)
NUM_PROMPTS = int(os.environ.get("WAYS_PROMPTS", "40"))
MOST_TOKENS, NUM_TOKENS = 512, 96
TINY_WAYS = {
    ("float32", 1): ("autoregressive", "speculative", "trees", "lookup"),
    ("float32", 2): ("outcomes",),
    ("float32", 3): ("pearl",),
    ("bfloat16", 1): ("outcomes",),
    ("bfloat16", 2): ("trees",),
    ("bfloat16", 3): ("lookup",),
    ("int8", 1): ("lookup",),
    ("int8", 2): ("pearl",),
    ("int8", 3): ("speculative",),
    ("int4", 1): ("pearl", "trees"),
    ("int4", 2): ("speculative",),
    ("int4", 3): ("outcomes",),
}
"""By weight format and number of ranks; the slow test decodes in all ways in each."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model all of whose matrices have rows of whole groups, on each number of ranks."""
    return save_tiny_checkpoint(
        tmp_path_factory.mktemp("ways") / "model",
        hidden_size=96,
        intermediate_size=96,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=32,
    )


@pytest.mark.parametrize(("weights", "tp"), TINY_WAYS)
def test_every_way_to_decode_gives_the_same_tokens(tiny: Path, weights: str, tp: int) -> None:
    model = StoredModel(directory=tiny, weights=weights, draft_layers=(0, 1), num_pages=100)
    prompts = tuple(tokens(5 + 3 * number, seed=number) for number in range(2))
    expected = reference(model, prompts, 76)
    for way in TINY_WAYS[weights, tp]:
        check_way(model, way, prompts, expected, tp=tp, num_alone=1)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tp", [1, 2, 3])
@pytest.mark.parametrize("weights", FORMATS)
def test_every_way_to_decode_gives_the_same_tokens_on_a_real_model(
    weights: str, tp: int, way: str
) -> None:
    if not SPEC_BENCH.is_file():
        pytest.skip(f"the prompts of Spec-Bench are not at {SPEC_BENCH}")
    model = smollm2(weights)
    prompts = spec_bench_prompts(model.directory)
    check_way(model, way, prompts, reference(model, prompts, NUM_TOKENS), tp=tp)


@cache
def reference(model: StoredModel, prompts: tuple[tuple[int, ...], ...], num_tokens: int) -> Answers:
    """Return one rank's plain decoding of each prompt alone; transformers decodes alike."""
    submits = plain_submits(prompts, num_tokens)
    found = answers(model, "autoregressive", submits, max_batch=1)
    for prompt, token_ids in zip(prompts, found.token_ids, strict=True):
        check_identity(model.directory, prompt, tuple(token_ids), model.weights)
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_outcomes_give_the_same_tokens_with_any_number_of_drafters(
    tiny: Path, temperature: float
) -> None:
    model = StoredModel(directory=tiny, weights="float32", draft_layers=(0, 1), num_pages=100)
    prompts = tuple(tokens(5 + 3 * number, seed=number) for number in range(2))
    sampling = SamplingParams(temperature=temperature, seed=3)
    expected = answers(model, "autoregressive", plain_submits(prompts, 60, sampling), max_batch=1)
    for num_drafters, max_batch in ((1, 2), (3, 1), (3, 2)):
        check_outcomes(
            model, prompts, expected, sampling, num_drafters=num_drafters, max_batch=max_batch
        )


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("max_batch", [1, 16])
@pytest.mark.parametrize("num_drafters", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_outcomes_give_the_same_tokens_with_any_number_of_drafters_on_a_real_model(
    temperature: float, num_drafters: int, max_batch: int
) -> None:
    if not SPEC_BENCH.is_file():
        pytest.skip(f"the prompts of Spec-Bench are not at {SPEC_BENCH}")
    model = smollm2("float32")
    prompts = spec_bench_prompts(model.directory)
    sampling = SamplingParams(temperature=temperature, seed=3)
    if temperature:
        expected = sampled_reference(model, prompts, sampling)
    else:
        expected = reference(model, prompts, NUM_TOKENS)
    check_outcomes(
        model, prompts, expected, sampling, num_drafters=num_drafters, max_batch=max_batch
    )


@cache
def sampled_reference(
    model: StoredModel, prompts: tuple[tuple[int, ...], ...], sampling: SamplingParams
) -> Answers:
    """Return one rank's plain decoding of each prompt alone."""
    return answers(
        model, "autoregressive", plain_submits(prompts, NUM_TOKENS, sampling), max_batch=1
    )


def smollm2(weights: str) -> StoredModel:
    directory = smollm2_directory()
    return StoredModel(
        directory=directory,
        weights=weights,
        draft_layers=(*range(28), 29),
        shipped=shipped_drafter(directory),
        num_pages=6000,
    )


def spec_bench_prompts(directory: Path) -> tuple[tuple[int, ...], ...]:
    short = [p for p in token_prompts(directory, SPEC_BENCH) if len(p) <= MOST_TOKENS]
    return tuple(short[:: len(short) // NUM_PROMPTS][:NUM_PROMPTS])
