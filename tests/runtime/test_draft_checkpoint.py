"""Trained drafters: what is saved is what drafts, and damaged or foreign ones are refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from parallel.decoding.types import ScoreRow
from parallel.group import Group, SoloGroup
from parallel.model.batch import SequenceRows
from parallel.model.shapes import tensor_shapes
from runtime.draft_checkpoint import check_drafter, is_drafter, load_drafter, save_drafter
from runtime.errors import ConfigError
from runtime.plan import SlotOpening, StepPlan
from runtime.shard import DecoderShard, ShardRunner
from tests.parallel.model.tiny import CPU, TinyModel, make_cache, on_ranks, tiny_model, tokens

HEAD = torch.arange(1, 100, 3)
PROMPT = tokens(20)


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return tiny_model(tie_word_embeddings=True)


@pytest.fixture(scope="module")
def target(model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("target")
    model.reference.save_pretrained(directory)
    return directory


def save(model: TinyModel, target: Path, directory: Path, *, head: bool) -> Path:
    config = replace(model.config, num_layers=2, tied_head=False)
    shared = ("model.embed_tokens.weight", "lm_head.weight")
    save_drafter(
        directory,
        config=config,
        target_directory=target,
        target_name="tiny",
        tensors={n: model.source.read(n) for n in tensor_shapes(config) if n not in shared},
        head_token_ids=HEAD,
        head=model.source.read("model.embed_tokens.weight")[HEAD] * 2 if head else None,
        card="# A drafter\n",
        dtype=torch.float32,
    )
    return directory


@pytest.fixture
def drafter(model: TinyModel, target: Path, tmp_path: Path) -> Path:
    return save(model, target, tmp_path / "drafter", head=True)


def scores(directory: Path, target: Path, group: Group, wanted: int) -> ScoreRow:
    """Return the row after the prompt, on the rank that asks."""
    decoder, ids = load_drafter(directory, target, group, dtype=torch.float32, device=CPU)
    runner = ShardRunner(DecoderShard(decoder, make_cache(decoder), ids), group)
    rows = (SequenceRows(slot=0, start=0, token_ids=PROMPT, num_logits=1),)
    opening = (SlotOpening(slot=0, pages=tuple(range(10))),)
    return runner.execute(StepPlan(openings=opening, rows=rows, num_candidates=(wanted,)))[0]


@pytest.mark.parametrize("head", [True, False])
def test_it_drafts_the_tokens_of_its_head_alone(
    model: TinyModel, target: Path, tmp_path: Path, head: bool
) -> None:
    directory = save(model, target, tmp_path / "drafter", head=head)
    expected = model.decoder(layers=(0, 1))
    cache = make_cache(expected)
    cache.open(0, 40)
    rows = [SequenceRows(slot=0, start=0, token_ids=PROMPT, num_logits=1)]
    with torch.inference_mode():
        logits = expected.forward(rows, cache)[0] * (2 if head else 1)
    whole = scores(directory, target, SoloGroup(), 0)
    torch.testing.assert_close(whole.logits[HEAD], logits[HEAD], atol=1e-4, rtol=1e-4)
    others = torch.ones(101, dtype=torch.bool)
    others[HEAD] = False
    assert whole.logits[others].eq(-torch.inf).all()
    best = scores(directory, target, SoloGroup(), 3)
    assert best.ids is not None
    assert best.ids.tolist() == HEAD[logits[HEAD].topk(3).indices].tolist()


@pytest.mark.parametrize("wanted", [0, 1, 4])
def test_it_splits_over_ranks(drafter: Path, target: Path, wanted: int) -> None:
    alone = scores(drafter, target, SoloGroup(), wanted)
    for row in on_ranks(2, lambda group: scores(drafter, target, group, wanted)):
        torch.testing.assert_close(row.logits, alone.logits, atol=1e-4, rtol=1e-4)
        assert (row.ids is None) == (alone.ids is None)
        if row.ids is not None and alone.ids is not None:
            assert row.ids.tolist() == alone.ids.tolist()


def test_what_is_saved_shares_the_embedding(drafter: Path, target: Path) -> None:
    assert is_drafter(drafter)
    assert not is_drafter(target)
    manifest = check_drafter(drafter, target)
    assert (manifest.target, manifest.head_size, manifest.trained_head) == ("tiny", len(HEAD), True)
    assert "model.embed_tokens.weight" not in load_file(drafter / "model.safetensors")
    assert (drafter / "README.md").read_text() == "# A drafter\n"


def test_saving_again_replaces_it(model: TinyModel, target: Path, drafter: Path) -> None:
    save(model, target, drafter, head=False)
    assert not check_drafter(drafter, target).trained_head
    assert [path.name for path in drafter.parent.iterdir()] == [drafter.name]


@pytest.mark.parametrize("change", ["flip a bit", "cut the end"])
def test_damaged_weights_are_refused(drafter: Path, target: Path, change: str) -> None:
    file = drafter / "model.safetensors"
    raw = bytearray(file.read_bytes())
    if change == "flip a bit":
        raw[-5] ^= 1
    else:
        del raw[-5:]
    file.write_bytes(raw)
    with pytest.raises(ConfigError, match=rf"drafter {drafter} is truncated or corrupt"):
        check_drafter(drafter, target)


def test_a_drafter_of_another_target_is_refused(
    drafter: Path, target: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(target, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    tensors["model.embed_tokens.weight"][3, 3] += 1
    save_file(tensors, str(other / "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="was trained for tiny, whose embedding differs"):
        check_drafter(drafter, other)


def test_a_damaged_manifest_is_refused(drafter: Path, target: Path) -> None:
    file = drafter / "config.json"
    fields = json.loads(file.read_text())
    fields["paceline_drafter"]["format"] = 9
    file.write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match="has format 9, this version reads 1"):
        check_drafter(drafter, target)
    del fields["paceline_drafter"]["target"]
    file.write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match=r"config\.json is damaged"):
        check_drafter(drafter, target)
