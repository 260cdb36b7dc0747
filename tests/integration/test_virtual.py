"""Virtual devices through the real actors, groups and links."""

import pytest

from tests.integration.conftest import Deploy
from tests.integration.runs import make_submits, run, tokens_of

PROMPTS = [tuple(range(i, i + 12)) for i in range(3)]


@pytest.mark.parametrize(("link", "tp", "drafters"), [("grpc", 1, 1), ("gloo", 2, 2)])
def test_drafting_hides_behind_verification(
    deploy: Deploy, link: str, tp: int, drafters: int
) -> None:
    virtual = "target=20ms,draft=4ms,alpha=0.8,vocab=64"
    deployment = deploy(virtual=virtual, link=link, tp=tp, drafters=drafters)
    plain = run(deployment, make_submits(PROMPTS, mode="autoregressive", max_tokens=40))
    serial = run(deployment, make_submits(PROMPTS, mode="speculative", max_tokens=40))
    pearl = run(deployment, make_submits(PROMPTS, mode="pearl", max_tokens=40))
    assert tokens_of(plain) == tokens_of(serial) == tokens_of(pearl)
    for results in (serial, pearl):
        assert sum(result.stats.accepted for result in results) > 0
    for result in pearl:
        assert result.stats.hidden_s > 0.5 * result.stats.draft_s
    for result in serial:
        assert result.stats.hidden_s < 0.1 * result.stats.draft_s
