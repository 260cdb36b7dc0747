"""What a server reads of an adapter, held against peft; what it cannot serve is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from parallel.batch import SequenceRows
from parallel.group import SoloGroup
from parallel.model.transformer import Decoder
from runtime.errors import ConfigError
from runtime.models.tokenizer import Tokenizer
from runtime.training.adapters.unmerged import BaseModel, read_unmerged
from tests.support.peft_adapters import ALL_PARTS, save_peft_adapter
from tests.support.tiny_checkpoint import save_tiny_checkpoint
from tests.support.tiny_transformer import CPU, TinyModel, make_cache, tiny_model, tokens

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
PROMPT = tokens(12)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    directory = save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
    return BaseModel(
        name="tiny",
        directory=directory,
        config=tiny_model().config,
        tokenizer=Tokenizer.load(directory),
    )


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return tiny_model()


def save(model: TinyModel, directory: Path, **settings: Any) -> PreTrainedModel:
    merged = save_peft_adapter(model.reference, directory, **settings)
    change(directory, base_model_name_or_path="tiny")
    return merged


def change(directory: Path, **settings: object) -> None:
    file = directory / "adapter_config.json"
    table = json.loads(file.read_text())
    file.write_text(json.dumps(table | settings))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "target_modules": ["q_proj", "v_proj"]},
        {
            "rank_pattern": {"q_proj": 3, r"layers\.1\.self_attn\.v_proj": 5},
            "alpha_pattern": {"v_proj": 11, "^model.layers.0.mlp.down_proj": 0.5},
        },
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.(q_proj|up_proj)"},
        {"exclude_modules": ["layers.0.self_attn.q_proj"]},
        {"layers_to_transform": 1, "layers_pattern": "layers"},
        {"layers_to_transform": [0, 2]},
        {"fan_in_fan_out": True, "lora_dropout": 0.5},
    ],
    ids=str,
)
def test_it_computes_what_peft_merges(
    base: BaseModel, model: TinyModel, tmp_path: Path, settings: dict[str, Any]
) -> None:
    merged = save(model, tmp_path / "a", **settings)
    adapter = read_unmerged(tmp_path / "a", "a", base)
    decoder = Decoder(model.config, model.source, SoloGroup(), device=CPU)
    decoder.add_adapter(adapter)
    found = score_with(decoder, adapter.name)
    with torch.inference_mode():
        expected = merged(torch.tensor([PROMPT]), use_cache=False).logits[0]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert not torch.allclose(model.expected(PROMPT), expected, atol=0.05)


def score_with(decoder: Decoder, adapter: str) -> torch.Tensor:
    cache = make_cache(decoder)
    cache.open(0, len(PROMPT))
    row = SequenceRows(slot=0, start=0, token_ids=PROMPT, num_logits=len(PROMPT), adapter=adapter)
    with torch.inference_mode():
        return decoder.forward([row], cache)


def test_the_name_tells_other_numbers_apart(
    base: BaseModel, model: TinyModel, tmp_path: Path
) -> None:
    save(model, tmp_path / "a")
    save(model, tmp_path / "same")
    save(model, tmp_path / "other", seed=1)
    save(model, tmp_path / "scaled", lora_alpha=7)
    names = [
        read_unmerged(tmp_path / one, "x", base).name for one in ("a", "same", "other", "scaled")
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert all(name.startswith("x@") for name in names)


def spoil_tensor(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        file = directory / "adapter_model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, {"format": "pt"})

    return spoil


def first(suffix: str) -> str:
    return f"base_model.model.model.layers.0.self_attn.q_proj.{suffix}.weight"


def drop_layer(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[first("lora_A")], tensors[first("lora_B")]


def widen(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first("lora_A")] = torch.zeros(4, 7)


def lower_rank(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first("lora_A")] = tensors[first("lora_A")][:3].clone()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: change(d, base_model_name_or_path="org/other"), "this server runs tiny"),
        (lambda d: change(d, use_dora=True), "use_dora is True.*merge"),
        (lambda d: change(d, lora_bias=True), "lora_bias is True.*merge"),
        (lambda d: change(d, bias="all"), "bias is 'all'.*merge"),
        (lambda d: change(d, modules_to_save=["lm_head"]), r"modules_to_save is \['lm_head'\]"),
        (lambda d: change(d, trainable_token_indices=[3]), r"trainable_token_indices is \[3\]"),
        (lambda d: change(d, target_modules=None), "target_modules is None"),
        (lambda d: change(d, r=5), "has the rank 5"),
        (lambda d: change(d, never_heard_of=1), "never_heard_of"),
        (spoil_tensor(drop_layer), r"lacks .*layers.0.self_attn.q_proj.lora_A"),
        (spoil_tensor(lambda t: t.pop(first("lora_B"))), r"lacks .*q_proj.lora_B"),
        (spoil_tensor(widen), r"q_proj.lora_A has the shape \(4, 7\)"),
        (spoil_tensor(lower_rank), "the rank 4"),
        (
            spoil_tensor(
                lambda t: t.update(
                    {"base_model.model.lm_head.lora_A.weight": t[first("lora_A")].clone()}
                )
            ),
            "lm_head.lora_A.weight has no place",
        ),
        (spoil_tensor(lambda t: t[first("lora_A")].fill_(torch.nan)), "NaN"),
    ],
)
def test_what_cannot_be_served_is_named(
    base: BaseModel,
    model: TinyModel,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    message: str,
) -> None:
    save(model, tmp_path / "a")
    spoil(tmp_path / "a")
    with pytest.raises(ConfigError, match=message):
        read_unmerged(tmp_path / "a", "a", base)


def test_another_tokenizer_or_chat_template_is_named(
    base: BaseModel, model: TinyModel, tmp_path: Path
) -> None:
    save(model, tmp_path / "a", target_modules=ALL_PARTS[:1])
    for file in base.directory.glob("tokenizer*.json"):
        (tmp_path / "a" / file.name).write_bytes(file.read_bytes())
    assert read_unmerged(tmp_path / "a", "a", base).layers  # its model's own
    (tmp_path / "a" / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ConfigError, match="another chat template"):
        read_unmerged(tmp_path / "a", "a", base)
    (tmp_path / "a" / "chat_template.jinja").unlink()
    file = tmp_path / "a" / "tokenizer.json"
    file.write_text(file.read_text().replace('"w7"', '"v7"'))
    with pytest.raises(ConfigError, match="other tokens"):
        read_unmerged(tmp_path / "a", "a", base)
