"""Virtual devices through the real actors, groups and links."""

import time

import pytest
import ray

from cluster.deploy.driver_session import Result
from tests.integration.conftest import Deploy
from tests.support.integration.runs import make_submits, run, tokens_of

PROMPTS = [tuple(range(i, i + 12)) for i in range(3)]


@pytest.mark.parametrize(("link", "tp", "drafters"), [("grpc", 1, 1), ("gloo", 2, 2)])
def test_drafting_hides_behind_verification(
    deploy: Deploy, link: str, tp: int, drafters: int
) -> None:
    virtual = "target=20ms,draft=4ms,alpha=0.8,vocab=64"
    deployment = deploy(virtual=virtual, link=link, tp=tp, drafter_tp=drafters)
    plain = run(deployment, make_submits(PROMPTS, mode="autoregressive", max_tokens=40))
    serial = run(deployment, make_submits(PROMPTS, mode="speculative", max_tokens=40))
    pearl = run(deployment, make_submits(PROMPTS, mode="pearl", max_tokens=40))
    assert tokens_of(plain) == tokens_of(serial) == tokens_of(pearl)
    for results in (serial, pearl):
        assert sum(result.stats.accepted for result in results) > 0
    assert hidden_share(pearl) > 0.3 > hidden_share(serial)


def hidden_share(results: list[Result]) -> float:
    """Return the share of drafting that ran beside verification."""
    hidden_s = sum(result.stats.hidden_s for result in results)
    return hidden_s / sum(result.stats.draft_s for result in results)


class CountingRay:
    """Stands in for the ray module of the driver and notes what is called on it."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def __getattr__(self, name: str) -> object:
        self.called.append(name)
        return getattr(ray, name)


def test_no_token_costs_a_ray_call(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice a second at most the driver looks whether a rank has ended, and that is all it asks.

    The ranks' loops cannot ask: runtime/ does not import ray.
    """
    deployment = deploy(virtual="target=5ms,draft=1ms,alpha=0.8,vocab=64")
    counting = CountingRay()
    monkeypatch.setattr("cluster.deploy.deployment.ray", counting)
    start_s = time.monotonic()
    results = run(deployment, make_submits(PROMPTS, max_tokens=60))
    seconds = time.monotonic() - start_s
    assert sum(len(result.token_ids) for result in results) == 180
    assert set(counting.called) <= {"wait"}
    assert len(counting.called) <= 2 * seconds
