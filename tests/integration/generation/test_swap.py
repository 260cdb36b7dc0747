"""A running engine takes another version of its drafter: same tokens, better drafts."""

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cluster.serve.draft_watch import DrafterWatch
from parallel.messages import Submit
from parallel.model.shapes import tensor_shapes
from runtime.drafters.draft_checkpoint import save_drafter
from runtime.errors import ConfigError
from runtime.hosts.drafter_spec import model_of
from runtime.models.checkpoint_files import read_model_config
from runtime.weights.checkpoint_source import CheckpointSource
from tests.integration.conftest import Deploy
from tests.support.integration.runs import make_submits, run, token_prompts, tokens_of
from tests.support.models import check_identity, smollm2_directory

HEAD = torch.arange(40_000)  # tokenizers number frequent pieces first
SHARED = ("model.embed_tokens.weight", "lm_head.weight")


def save_layers(directory: Path, num_layers: int) -> Path:
    """Save the target's first layers as a drafter: all of them draft well, two hardly ever."""
    target = smollm2_directory()
    source = CheckpointSource(target, "float32", torch.device("cpu"))
    config = replace(read_model_config(target), num_layers=num_layers, tied_head=False)
    names = [name for name in tensor_shapes(config) if name not in SHARED]
    save_drafter(
        directory,
        config=config,
        target_directory=target,
        target_name="smollm2-135m",
        tensors={name: source.read(name) for name in names},
        head_token_ids=HEAD,
        head=None,
        card="# A drafter\n",
        dtype=torch.float32,
    )
    return directory


@pytest.mark.parametrize(
    ("place", "mode"),
    [pytest.param("", "pearl", marks=pytest.mark.slow), ("inline:", "speculative")],
)
def test_a_better_version_is_taken_while_requests_run(
    deploy: Deploy, tmp_path: Path, place: str, mode: str
) -> None:
    directory = smollm2_directory()
    drafter = save_layers(tmp_path / "drafter", 2)
    better = save_layers(tmp_path / "better", 30)
    deployment = deploy(drafter=f"{place}{drafter}")
    settings = model_of(deployment.spec.drafter)
    assert settings is not None
    watch = DrafterWatch(deployment, settings)
    assert watch.look() is None
    started = threading.Event()

    def on_tokens(_: Submit, __: tuple[int, ...]) -> None:
        started.set()

    versions: list[str | None] = []

    def swap() -> None:
        assert started.wait(60)
        shutil.rmtree(drafter)
        better.rename(drafter)
        versions.append(watch.look())

    prompts = token_prompts(directory, limit=2)
    submits = make_submits(prompts, mode=mode, max_tokens=160)
    swapping = threading.Thread(target=swap)
    swapping.start()
    results = run(deployment, submits, on_tokens)
    swapping.join(timeout=120)
    assert versions == [watch.version]
    again = run(deployment, make_submits(prompts, mode=mode, max_tokens=24))
    for submit, tokens in zip(submits, tokens_of(results), strict=True):
        check_identity(directory, submit.prompt_ids, tokens)
    for submit, tokens in zip(submits, tokens_of(again), strict=True):
        check_identity(directory, submit.prompt_ids, tokens)
    accepted = sum(result.stats.accepted for result in again)
    assert accepted > sum(result.stats.rejected for result in again)
    deployment.check()
    assert deployment.lost_drafters == []

    (drafter / "model.safetensors").write_bytes(b"no weights at all")
    fields = (drafter / "config.json").read_text().replace(watch.version, "0" * 12)
    (drafter / "config.json").write_text(fields)
    with pytest.raises(ConfigError, match="truncated or corrupt"):
        watch.look()
    assert watch.look() is None  # it is not tried again
    assert len(run(deployment, submits[:1])) == 1
