"""A drafter spread over real ranks by layers: same tokens, and mended when a rank dies."""

import os
import signal
import time
from pathlib import Path

import pytest

from cluster.deploy.deployment import Deployment
from tests.integration.conftest import Deploy
from tests.support.integration.runs import make_submits, run, token_prompts, tokens_of
from tests.support.models import check_identity, smollm2_directory

CUT = "target:layers=0-14,25-29"


@pytest.mark.parametrize(
    ("drafters", "width", "mode"),
    [
        (2, "2", "pearl"),
        (2, "auto", "speculative"),
        pytest.param(1, "3", "speculative", marks=pytest.mark.slow),
        pytest.param(3, "4", "pearl", marks=pytest.mark.slow),
    ],
)
def test_it_changes_no_token(deploy: Deploy, drafters: int, width: str, mode: str) -> None:
    directory = smollm2_directory()
    deployment = deploy(drafter=CUT, drafter_tp=drafters, layer_parallel=width)
    prompts = token_prompts(directory, limit=3)
    submits = make_submits(prompts, mode=mode, max_tokens=32, draft_length=4)
    results = run(deployment, submits)
    for submit, tokens in zip(submits, tokens_of(results), strict=True):
        check_identity(directory, submit.prompt_ids, tokens)
    stats = [result.stats for result in results]
    assert sum(s.drafted for s in stats) > sum(s.accepted for s in stats) > 0
    if width != "auto":
        assert {s.draft_width for s in stats} == {int(width)}
    assert all((s.draft_width or 0) > 0 and s.predicted_step_s > 0 < s.draft_step_s for s in stats)
    deployment.close()


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "stalls"])
def test_a_lost_rank_is_done_without_and_the_group_mended(
    deploy: Deploy, tiny_checkpoint: Path, kind: signal.Signals
) -> None:
    model = str(tiny_checkpoint)
    deployment = deploy(target=model, drafter=model, drafter_tp=2, draft_wait_s=0.3)
    submits = make_submits([(5, 6, 7), (8, 9)], mode="pearl", max_tokens=400, draft_length=3)
    victim = deployment.pids("drafter")[1]
    seen: list[int] = []
    struck = False

    def strike(_: object, token_ids: tuple[int, ...]) -> None:
        nonlocal struck
        seen.extend(token_ids)
        if len(seen) > 20 and not struck:
            os.kill(victim, kind)
            struck = True

    results = run(deployment, submits, strike)
    for submit, tokens in zip(submits, tokens_of(results), strict=True):
        check_identity(tiny_checkpoint, submit.prompt_ids, tokens)
    _await_mended(deployment)
    assert len(deployment.pids("drafter")) == 1
    again = run(deployment, submits)
    assert tokens_of(again) == tokens_of(results)
    assert sum(result.stats.accepted for result in again) > 0
    deployment.close()


def _await_mended(deployment: Deployment) -> None:
    deadline_s = time.monotonic() + 90
    while time.monotonic() < deadline_s:
        deployment.check()
        if deployment.num_replaced and deployment.lost_drafters:
            return
        time.sleep(0.2)
    pytest.fail(f"no drafter group was started in place of {deployment.lost_drafters}")
