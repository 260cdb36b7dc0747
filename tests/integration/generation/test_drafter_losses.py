"""A drafter with a process of its own that breaks is replaced, and changes no token."""

import os
import signal
import time

import pytest

from cluster.deploy import rank_actors
from cluster.deploy.deployment import Deployment
from tests.integration.conftest import Deploy
from tests.support.integration.hostile_server import BreakingShardActor
from tests.support.integration.runs import make_submits, run, tokens_of

VIRTUAL = "target=5ms,draft=1ms,alpha=0.8"
PROMPTS = [(number, 5) for number in range(1, 5)]


def await_another(deployment: Deployment) -> None:
    """Wait until a drafter has been started in place of a lost one."""
    deadline_s = time.monotonic() + 120
    while not deployment.num_replaced:
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
