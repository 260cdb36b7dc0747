"""A target comes back without its drafter where the drafter is what fails."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cluster.deploy.deployment import Deployment
from cluster.deploy.deployment_spec import DeploymentSpec
from runtime.drafters.lookups.lookup_settings import LookupSettings
from runtime.engine.engine_limits import EngineConfig
from runtime.errors import ConfigError
from runtime.hosts.drafter_spec import (
    InlineModelDrafterSpec,
    LookupDrafterSpec,
    ModelDrafterSpec,
)
from runtime.hosts.rank_settings import LeaderSettings, ModelSettings
from tests.support.log_records import records_of

TARGET = ModelSettings(role="target", directory="target")
DRAFTER = ModelSettings(role="drafter", directory="drafter")
LEADER = LeaderSettings(
    limits=EngineConfig(vocab_size=64, max_positions=64, max_batch=16), draft_wait_s=1.0
)
ALONE = DeploymentSpec(target=TARGET, tp=1, leader=LEADER)
WITH_RANKS = replace(ALONE, drafter=ModelDrafterSpec(DRAFTER))
INLINE = replace(ALONE, drafter=InlineModelDrafterSpec(DRAFTER))
LOOKUP = replace(ALONE, drafter=LookupDrafterSpec(LookupSettings()))


class ScriptedDeployment(Deployment):
    """Starts nothing, but reports how starts end."""

    def __init__(self, spec: DeploymentSpec, fails: Callable[[DeploymentSpec], bool]) -> None:
        super().__init__(spec)
        self.started: list[DeploymentSpec] = []
        self._fails = fails

    def _reserve(self, num_drafters: int, note: object) -> list[Any]:  # noqa: ARG002
        return [None]

    def _start(self, reservations: object, note: object) -> None:  # noqa: ARG002
        self.started.append(self.spec)
        if self._fails(self.spec):
            raise ConfigError("model.safetensors is truncated")


@pytest.mark.parametrize("spec", [WITH_RANKS, INLINE, LOOKUP])
def test_a_drafter_that_does_not_load_costs_the_restart_its_drafts_alone(
    spec: DeploymentSpec, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = ScriptedDeployment(spec, lambda tried: tried != tried.target_only)
    deployment.restart()
    assert deployment.started == [spec, spec.target_only]
    assert deployment.spec == spec  # the next restart tries it again
    assert "without its drafter, after: model.safetensors is truncated" in caplog.text


@pytest.mark.parametrize("spec", [ALONE, INLINE])
def test_a_target_that_does_not_load_is_lost(spec: DeploymentSpec) -> None:
    deployment = ScriptedDeployment(spec, lambda _: True)
    with pytest.raises(ConfigError, match="truncated"):
        deployment.restart()
    assert deployment.spec == spec


def test_an_inline_drafter_that_hangs_is_not_started_again() -> None:
    deployment = ScriptedDeployment(INLINE, lambda _: False)
    assert deployment.spec.has_inline_drafter
    deployment.drop_inline_drafter()
    deployment.restart()
    assert deployment.started == [ALONE]


def test_trouble_with_the_drafters_is_reported_once_and_loses_no_target(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = ScriptedDeployment(WITH_RANKS, lambda _: False)

    def fail() -> None:
        raise KeyError("a call that is not known")

    monkeypatch.setattr(deployment.drafters, "check", fail)
    for _ in range(5):
        deployment.check()
    found = [record.message for record in records_of(caplog, "paceline.deployment")]
    assert found == ["drafters cannot be checked"]
