"""A drafter's directory that becomes unreadable is reported once and costs no request."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from cluster.serve.draft_watch import DrafterWatch
from runtime.drafters.draft_checkpoint import DRAFTER_KEY, DrafterManifest
from runtime.errors import ConfigError
from runtime.hosts.rank_settings import ModelSettings

MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 16,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-6,
}


class Swaps:
    def __init__(self) -> None:
        self.num = 0

    def swap_drafter(self, settings: ModelSettings) -> None:  # noqa: ARG002
        self.num += 1


def watched(drafter: Path) -> tuple[DrafterWatch, Swaps]:
    manifest = DrafterManifest(
        target="tiny", head_size=1, trained_head=True, embedding_sha256="a", weights_sha256="b"
    )
    fields = MODEL | {DRAFTER_KEY: asdict(manifest)}
    (drafter / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    settings = ModelSettings(role="drafter", directory=str(drafter), embedding_directory="target")
    swaps = Swaps()
    return DrafterWatch(swaps, settings), swaps


@pytest.mark.parametrize("content", ["", "{", "[]", '{"paceline_drafter": 7}', None])
def test_a_directory_that_stays_unreadable_is_reported_once(
    tmp_path: Path, content: str | None
) -> None:
    watch, swaps = watched(tmp_path)
    config = tmp_path / "config.json"
    if content is None:
        config.unlink()
    else:
        config.write_text(content, encoding="utf-8")
    told = 0
    for _ in range(40):
        try:
            assert watch.look() is None
        except ConfigError:
            told += 1
    assert told == 1
    assert swaps.num == 0
