"""A target that cannot run as asked is rejected before anything starts."""

from pathlib import Path
from typing import Any

import pytest

from cluster.deploy.target_plan import plan_target, target_settings
from cluster.options.model_options import ModelOptions
from cluster.options.place_options import PlaceOptions
from runtime.errors import ConfigError
from tests.support.tiny_checkpoint import save_tiny_checkpoint

VIRTUAL = "target=1ms,draft=1ms,alpha=0.5"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "^no target: name one as `target`"),
        ({"drafters": 2, "link": "gloo"}, "^`drafters` is 2, and `link` gloo attaches one drafter"),
        ({"link": "nccl"}, "^`link` is nccl, which needs `device=cuda`: take gloo on CPUs$"),
        (
            {"link": "nccl", "device": "cuda", "drafter_device": "cpu"},
            "^`link` is nccl, which needs `drafter_device=cuda`",
        ),
        ({"group_backend": "nccl"}, "^`group_backend` is nccl, which needs `device=cuda`"),
        ({"layer_parallel": "on"}, "^`layer_parallel` is 'on'"),
    ],
)
def test_options_that_cannot_work_name_their_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_target(ModelOptions(**fields))


def test_more_ranks_than_heads_are_rejected(tmp_path: Path) -> None:
    tiny = save_tiny_checkpoint(tmp_path / "tiny")
    with pytest.raises(ConfigError, match=r"^`tp` is 64: "):
        plan_target(ModelOptions(target=str(tiny), tp=64))


def test_a_virtual_target_has_no_checkpoint() -> None:
    options = ModelOptions(virtual=VIRTUAL, place=PlaceOptions(timeout_s=3))
    target = plan_target(options)
    settings = target_settings(options, target)
    assert (target.directory, settings.directory, settings.known) == (None, None, ())
    assert settings.virtual == target.virtual
    assert settings.group_timeout_s == 3
