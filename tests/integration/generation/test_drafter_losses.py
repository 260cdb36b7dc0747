"""A drafter with a process of its own that breaks is replaced, and changes no token."""

import os
import signal
import time
from dataclasses import replace

import pytest

from cluster.deploy import rank_actors
from cluster.deploy.deployment import Deployment
from parallel.decoding.types import DecodeMode
from parallel.messages import Submit
from tests.integration.conftest import Deploy
from tests.support.integration.hostile_server import BreakingShardActor
from tests.support.integration.runs import make_submits, run, tokens_of

VIRTUAL = "target=5ms,draft=1ms,alpha=0.8"
PROMPTS = [(number, 5) for number in range(1, 5)]


def await_another(deployment: Deployment, num_replaced: int = 1) -> None:
    """Wait until a drafter has been started in place of each lost one."""
    deadline_s = time.monotonic() + 120
    while deployment.num_replaced < num_replaced:
        assert time.monotonic() < deadline_s
        deployment.check()
        time.sleep(0.1)


def tokens(deployment: Deployment, mode: str) -> list[tuple[int, ...]]:
    return tokens_of(run(deployment, make_submits(PROMPTS, mode=mode, max_tokens=40)))


def test_a_drafter_that_raises_is_replaced(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_actors, "ShardActor", BreakingShardActor)
    deployment = deploy(virtual=VIRTUAL)
    alone = tokens(deployment, "autoregressive")
    assert tokens(deployment, "speculative") == alone
    await_another(deployment)
    assert tokens(deployment, "pearl") == alone
    assert deployment.lost_drafters


def test_an_ngram_drafter_that_is_killed_is_replaced(deploy: Deploy) -> None:
    deployment = deploy(virtual=VIRTUAL, drafter="ngram")
    alone = tokens(deployment, "autoregressive")
    os.kill(deployment.pids("drafter")[0], signal.SIGKILL)
    assert tokens(deployment, "speculative") == alone
    await_another(deployment)
    assert tokens(deployment, "speculative") == alone


def test_a_drafter_of_three_that_is_killed_costs_hits_alone(deploy: Deploy) -> None:
    """They share the outcomes of one request; the first one has it, the others only guess along."""
    deployment = deploy(virtual="target=10ms,draft=2ms,alpha=0.7,beta=0.5", drafters=3)
    (submit,) = make_submits(PROMPTS[:1], mode="outcomes", max_tokens=300, draft_length=5)
    alone = run(deployment, [replace(submit, mode=DecodeMode.AUTOREGRESSIVE, max_tokens=300)])
    for victim in (2, 0):
        pids = deployment.pids("drafter")
        num_tokens = 0

        def strike(_: Submit, token_ids: tuple[int, ...]) -> None:
            nonlocal num_tokens
            before, num_tokens = num_tokens, num_tokens + len(token_ids)
            if before < 100 <= num_tokens:
                os.kill(pids[victim], signal.SIGKILL)  # noqa: B023

        found = run(deployment, [submit], on_tokens=strike)
        assert tokens_of(found) == tokens_of(alone)
        stats = found[0].stats
        assert stats.drafter_lost
        assert stats.missed_drafts <= 1
        assert stats.recovered_hits > 0
        await_another(deployment, num_replaced=1 if victim else 2)
