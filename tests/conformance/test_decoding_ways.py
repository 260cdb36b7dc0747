"""Within a weight format, every way to decode gives the same tokens.

All modes and drafters, one to three ranks, alone and in a batch, resumed in the middle, and under
preemption; in float32 the tokens are those of transformers.
"""

from pathlib import Path

import pytest

from runtime.drafters.shipped import shipped_drafter
from tests.support.decoding_ways import FORMATS, WAYS, StoredModel, answers, check_way
from tests.support.integration.runs import token_prompts
from tests.support.models import check_identity, smollm2_directory
from tests.support.rig import make_submit
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.tiny_transformer import tokens

SPEC_BENCH = (
    Path(__file__).resolve().parents[3] / "shared" / "data" / "prompts" / "spec_bench.jsonl"
)
NUM_PROMPTS, MOST_TOKENS, NUM_TOKENS = 40, 512, 96
TINY_WAYS = {1: [way for way in WAYS if way != "shipped"], 2: ["trees"], 3: ["pearl"]}
"""By number of ranks; the slow test decodes in all ways on each."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("ways") / "model")


@pytest.mark.parametrize("tp", [1, 2, 3])
@pytest.mark.parametrize("weights", FORMATS)
def test_every_way_to_decode_gives_the_same_tokens(tiny: Path, weights: str, tp: int) -> None:
    model = StoredModel(directory=tiny, weights=weights, draft_layers=(0, 1), num_pages=100)
    prompts = [tokens(5 + 3 * number, seed=number) for number in range(2)]
    expected = reference(model, prompts, 76)
    for way in TINY_WAYS[tp]:
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
    directory = smollm2_directory()
    model = StoredModel(
        directory=directory,
        weights=weights,
        draft_layers=(*range(28), 29),
        shipped=shipped_drafter(directory),
        num_pages=6000,
    )
    prompts = [p for p in token_prompts(directory, SPEC_BENCH) if len(p) <= MOST_TOKENS]
    prompts = prompts[:: len(prompts) // NUM_PROMPTS][:NUM_PROMPTS]
    check_way(model, way, prompts, reference(model, prompts, NUM_TOKENS), tp=tp)


def reference(
    model: StoredModel, prompts: list[tuple[int, ...]], num_tokens: int
) -> list[list[int]]:
    """Return one rank's plain decoding of each prompt alone, checked where there is an oracle."""
    submits = [
        make_submit(number, prompt=prompt, max_tokens=num_tokens)
        for number, prompt in enumerate(prompts)
    ]
    found = answers(model, "autoregressive", submits, max_batch=1).token_ids
    if model.weights == "float32":
        for prompt, token_ids in zip(prompts, found, strict=True):
            check_identity(model.directory, prompt, tuple(token_ids))
    return found
