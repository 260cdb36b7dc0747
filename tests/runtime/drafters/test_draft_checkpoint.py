"""Trained drafters: what is saved is what drafts, and damaged or foreign ones are rejected."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from parallel.batch import SequenceRows
from parallel.decoding.score_row import ScoreRow
from parallel.group import Group, SoloGroup
from parallel.model.shapes import tensor_shapes
from parallel.weights.stored_matrix import StoredMatrix, as_float
from parallel.weights.weight_format import WeightFormat
from runtime.drafters.draft_checkpoint import (
    DrafterSource,
    check_drafter,
    drafter_facts,
    embedding_digest,
    is_drafter,
    load_drafter,
    save_drafter,
)
from runtime.errors import ConfigError
from runtime.models.model_facts import read_facts
from runtime.models.transformers_model import load_transformers
from runtime.rank.shard import DecoderShard, ShardRunner
from runtime.rank.step_plan import SlotOpening, StepPlan
from tests.support.stored_checkpoints import num_bytes, save_stored, stored_as, wide_model
from tests.support.tiny_transformer import CPU, TinyModel, make_cache, on_ranks, tiny_model, tokens

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


def scores(directory: Path, target: Path, group: Group, wanted: int | None) -> ScoreRow:
    """Return the row after the prompt, on the rank that asks."""
    decoder, ids = load_drafter(directory, target, group, weights="float32", device=CPU)
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
    whole = scores(directory, target, SoloGroup(), None)
    torch.testing.assert_close(whole.logits[HEAD], logits[HEAD], atol=1e-4, rtol=1e-4)
    others = torch.ones(101, dtype=torch.bool)
    others[HEAD] = False
    assert whole.logits[others].eq(-torch.inf).all()
    best = scores(directory, target, SoloGroup(), 3)
    assert best.ids is not None
    assert best.ids.tolist() == HEAD[logits[HEAD].topk(3).indices].tolist()


@pytest.mark.parametrize("wanted", [None, 1, 4])
def test_it_splits_over_ranks(drafter: Path, target: Path, wanted: int | None) -> None:
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
def test_damaged_weights_are_rejected(drafter: Path, target: Path, change: str) -> None:
    file = drafter / "model.safetensors"
    raw = bytearray(file.read_bytes())
    if change == "flip a bit":
        raw[-5] ^= 1
    else:
        del raw[-5:]
    file.write_bytes(raw)
    with pytest.raises(ConfigError, match=rf"drafter {drafter} is truncated or corrupt"):
        check_drafter(drafter, target)


def test_a_drafter_of_another_target_is_rejected(
    drafter: Path, target: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(target, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    tensors["model.embed_tokens.weight"][3, 3] += 1
    save_file(tensors, str(other / "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="was trained for tiny, whose embedding differs"):
        check_drafter(drafter, other)


def test_a_damaged_manifest_is_rejected(drafter: Path, target: Path) -> None:
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


@pytest.mark.parametrize("window", [0, -3, 2.5, "all", True])
def test_a_prompt_window_that_is_no_number_of_tokens_is_rejected(
    drafter: Path, target: Path, window: object
) -> None:
    edit_manifest(drafter, prompt_window=window)
    with pytest.raises(ConfigError, match="write a number of tokens from 1 on, or null"):
        check_drafter(drafter, target)


def test_the_prompt_window_is_kept(drafter: Path, target: Path) -> None:
    assert check_drafter(drafter, target).prompt_window is None
    edit_manifest(drafter, prompt_window=256)
    assert check_drafter(drafter, target).prompt_window == 256


def edit_manifest(directory: Path, **changes: object) -> None:
    file = directory / "config.json"
    fields = json.loads(file.read_text())
    fields["paceline_drafter"] |= changes
    file.write_text(json.dumps(fields))


def replace_weights(directory: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Change tensors, None removes one, and state the digest of the new file."""
    file = directory / "model.safetensors"
    tensors = {k: v for k, v in (load_file(file) | changes).items() if v is not None}
    save_file(tensors, str(file), metadata={"format": "pt"})
    edit_manifest(directory, weights_sha256=hashlib.sha256(file.read_bytes()).hexdigest())


@pytest.mark.parametrize("changes", [{"head_size": 7}, {"trained_head": False}])
def test_a_manifest_that_disagrees_with_the_weights_is_rejected(
    drafter: Path, target: Path, changes: dict[str, object]
) -> None:
    edit_manifest(drafter, **changes)
    with pytest.raises(ConfigError, match=r"but model.safetensors has True and 33"):
        check_drafter(drafter, target)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.extra.weight": torch.ones(1)}, "has the tensor model.extra.weight"),
        ({"model.norm.weight": None}, "has no tensor 'model.norm.weight'"),
        ({"model.norm.weight": torch.ones(36).to(torch.float8_e4m3fn)}, "as F8_E4M3"),
        ({"lm_head.weight": torch.ones(7, 36)}, r"lm_head.weight of .* the shape \[7, 36\]"),
        ({"head.token_ids": None}, "has no head.token_ids of type int32"),
        ({"head.token_ids": torch.arange(33)}, "has no head.token_ids of type int32"),
        ({"model.embed_tokens.weight": torch.ones(101, 36)}, "has the tensor model.embed_tokens"),
    ],
)
def test_tensors_that_are_no_drafter_are_rejected_by_name(
    drafter: Path, target: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    replace_weights(drafter, changes)
    for use in (lambda: check_drafter(drafter, target), lambda: scores_of(drafter, target)):
        with pytest.raises(ConfigError, match=message):
            use()


@pytest.mark.parametrize("ids", [HEAD.flip(0), HEAD + 90, HEAD - 5])
def test_head_tokens_that_are_no_tokens_are_rejected(
    drafter: Path, target: Path, ids: torch.Tensor
) -> None:
    replace_weights(drafter, {"head.token_ids": ids.to(torch.int32)})
    with pytest.raises(ConfigError, match="are not tokens of its target in rising order"):
        scores_of(drafter, target)


def test_a_target_with_another_embedding_is_rejected_before_it_is_read(
    drafter: Path, tmp_path: Path
) -> None:
    tiny_model(vocab_size=90).reference.save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"shape \[101, 36\]; that of .* has \[90, 36\]"):
        scores_of(drafter, tmp_path / "other")


def scores_of(drafter: Path, target: Path) -> ScoreRow:
    return scores(drafter, target, SoloGroup(), None)


@pytest.mark.parametrize("form", [WeightFormat.INT8, WeightFormat.INT4])
@pytest.mark.parametrize("head", [True, False])
def test_a_drafter_of_a_stored_target_scores_with_its_rows(
    form: WeightFormat, head: bool, tmp_path: Path
) -> None:
    model = wide_model(tie_word_embeddings=True)
    target = save_stored(tmp_path / "target", form, model)
    directory = save(model, target, tmp_path / "drafter", head=head)
    check_drafter(directory, target)
    source = DrafterSource(directory, target, "auto", CPU)
    table = stored_as(model.source.read("model.embed_tokens.weight"), form)
    embedding = source.read_matrix("model.embed_tokens.weight", 0, 0, 101)
    assert isinstance(embedding, StoredMatrix)
    assert torch.equal(embedding.dequantized(), as_float(table))
    rows = source.read_matrix("lm_head.weight", 0, 2, 7)
    numbers = source.read_slice("lm_head.weight", 0, 2, 7)
    if head:
        assert torch.equal(as_float(rows), as_float(stored_as(numbers, WeightFormat.INT8)))
    else:
        assert torch.equal(as_float(rows), as_float(table)[HEAD[2:7]])
        assert torch.equal(as_float(rows), numbers)


@pytest.mark.parametrize(
    ("weights", "held"),
    [("auto", "int8"), ("int4", "int4"), ("float32", "float32"), ("float16", "float16")],
)
def test_a_cpu_holds_a_drafters_own_matrices_in_int8_unless_a_format_is_named(
    weights: str, held: str, tmp_path: Path
) -> None:
    model = wide_model(tie_word_embeddings=True)
    target = save_stored(tmp_path / "target", None, model)
    source = DrafterSource(
        save(model, target, tmp_path / "drafter", head=True), target, weights, CPU
    )
    for name in ("lm_head.weight", "model.layers.1.self_attn.q_proj.weight"):
        matrix = source.read_matrix(name, 0, 0, 16)
        expected = stored_as(source.read(name)[:16], WeightFormat(held))
        assert torch.equal(as_float(matrix), as_float(expected))
        assert isinstance(matrix, StoredMatrix) is WeightFormat(held).is_grouped
    embedding = source.read_matrix("model.embed_tokens.weight", 0, 0, 16)
    assert isinstance(embedding, StoredMatrix) is (weights == "int4")


def test_the_digest_of_an_embedding_is_that_of_its_numbers(tmp_path: Path) -> None:
    target = save_stored(tmp_path / "stored", WeightFormat.INT4)
    plain = tmp_path / "plain"
    load_transformers(target, torch.float32).save_pretrained(plain)
    assert embedding_digest(target) == embedding_digest(plain)


def test_a_drafter_needs_the_memory_of_what_it_shares_and_of_its_own(tmp_path: Path) -> None:
    model = wide_model(tie_word_embeddings=True)
    target = save_stored(tmp_path / "target", WeightFormat.INT4, model)
    directory = save(model, target, tmp_path / "drafter", head=False)
    facts = drafter_facts(directory, read_facts(target))
    source = DrafterSource(directory, target, "int8", CPU)
    shapes = tensor_shapes(source.config)
    held = sum(
        num_bytes(source.read_matrix(name, 0, 0, len(HEAD) if "lm_head" in name else shape[0]))
        if len(shape) == 2
        else num_bytes(source.read(name))
        for name, shape in shapes.items()
    )
    assert facts.weight_bytes("int8", "cpu") == held
