"""The long check: 40 prompts of Spec-Bench, every mode and split, against transformers."""

from pathlib import Path
from typing import Any

import pytest

from runtime.drafters.shipped import shipped_drafter
from tests.integration.conftest import Deploy
from tests.support.integration.runs import make_submits, run, token_prompts, tokens_of
from tests.support.models import check_identity, smollm2_directory

SPEC_BENCH = (
    Path(__file__).resolve().parents[4] / "shared" / "data" / "prompts" / "spec_bench.jsonl"
)
MODES = ("autoregressive", "speculative", "pearl")
MOST_TOKENS = 1024  # longer prompts make this slow, not stricter


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("tp", "drafter", "modes"),
    [
        (1, "ngram", MODES),
        (2, "ngram", MODES),
        (3, "ngram", MODES),
        (1, "target:layers=0-27,29", MODES[1:]),
        (1, "lookup", MODES[1:]),
        (1, "SHIPPED", (*MODES[1:], "auto")),
        (1, "inline:SHIPPED", MODES[1:]),
        (1, "beside:SHIPPED", MODES[1:]),
        (2, "inline:SHIPPED+ngram+recycle", MODES[1:]),
        (1, "target:layers=0-27,29+ngram", MODES[1:]),
    ],
)
def test_spec_bench_gives_the_tokens_of_transformers(
    tp: int, drafter: str, modes: tuple[str, ...], deploy: Deploy
) -> None:
    _check_spec_bench(deploy, modes, tp=tp, drafter=drafter)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("drafters", "width"), [(1, "4"), (2, "2"), (2, "5"), (3, "3"), (4, "4")])
def test_layers_at_a_time_give_the_tokens_of_transformers(
    drafters: int, width: str, deploy: Deploy
) -> None:
    drafter = "target:layers=0-27,29"
    _check_spec_bench(
        deploy, MODES[1:], tp=1, drafter=drafter, drafter_tp=drafters, layer_parallel=width
    )


def _check_spec_bench(deploy: Deploy, modes: tuple[str, ...], **options: Any) -> None:
    if not SPEC_BENCH.is_file():
        pytest.skip(f"the prompts of Spec-Bench are not at {SPEC_BENCH}")
    directory = smollm2_directory()
    prompts = token_prompts(directory, SPEC_BENCH)
    prompts = [prompt for prompt in prompts if len(prompt) <= MOST_TOKENS][::5][:40]
    assert len(prompts) == 40
    shipped = str(shipped_drafter(directory))
    options["drafter"] = options["drafter"].replace("SHIPPED", shipped)
    deployment = deploy(cache_tokens=16 * (MOST_TOKENS + 96), **options)
    for mode in modes:
        results = run(deployment, make_submits(prompts, mode=mode, max_tokens=64))
        near_ties = [
            check_identity(directory, prompt, tokens)
            for prompt, tokens in zip(prompts, tokens_of(results), strict=True)
        ]
        listed = [f"prompt {i}, {tie}" for i, tie in enumerate(near_ties) if tie]
        print(f"{options} {mode}: {40 - len(listed)} of 40 identical", *listed, sep="\n  ")
        assert (sum(r.stats.accepted for r in results) > 0) == (mode != "autoregressive")
    deployment.close()
