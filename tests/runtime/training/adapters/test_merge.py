"""Merged models, held against peft: what its unmerged adapter computes, and what it merges to."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from runtime.errors import ConfigError
from runtime.training.adapters.merge import merge_adapter
from tests.support.tiny_checkpoint import save_tiny_checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),  # of what peft calls
    pytest.mark.filterwarnings("ignore::peft.utils.warning.PeftWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
IDS = torch.tensor([[1, 3, 7, 11, 49, 3]])


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bases")
    sizes: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "attention_bias": True,
    }
    torch.manual_seed(0)
    for name in ("llama", "tied"):
        config = LlamaConfig(**sizes, tie_word_embeddings=name == "tied")
        LlamaForCausalLM(config).save_pretrained(root / name)
    del sizes["attention_bias"], sizes["head_dim"]
    Qwen2ForCausalLM(Qwen2Config(**sizes)).save_pretrained(root / "qwen2")
    return root


def load(directory: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model


def logits(model: torch.nn.Module) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model.eval()(IDS).logits
    return found


def make_adapter(base: Path, out: Path, **settings: Any) -> Tensor:
    """Write an adapter whose every weight is drawn, and return its logits before any merging."""
    plain: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "task_type": "CAUSAL_LM",
    }
    adapted = get_peft_model(load(base), LoraConfig(**(plain | settings)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.3)
    adapted.save_pretrained(str(out))
    return logits(adapted)


ACCEPTED: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"use_rslora": True}),
    ("llama", {"use_dora": True}),
    ("llama", {"use_dora": True, "use_rslora": True}),
    (
        "llama",
        {
            "rank_pattern": {"q_proj": 3, r"layers\.1\.self_attn\.v_proj": 5},
            "alpha_pattern": {"v_proj": 11, "^model.layers.0.mlp.down_proj": 0.5},
        },
    ),
    ("llama", {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 9}}),
    ("llama", {"bias": "all"}),
    ("llama", {"bias": "lora_only"}),
    ("llama", {"lora_bias": True, "target_modules": ["q_proj", "k_proj"]}),
    ("llama", {"modules_to_save": ["lm_head", "embed_tokens", "input_layernorm"]}),
    ("llama", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    ("llama", {"target_modules": ["embed_tokens"], "use_dora": True}),
    ("llama", {"trainable_token_indices": [3, 7]}),
    ("llama", {"trainable_token_indices": {"embed_tokens": [3], "lm_head": [7, 8]}}),
    ("llama", {"target_modules": "all-linear"}),
    ("llama", {"target_modules": r".*\.(q_proj|up_proj)"}),
    ("llama", {"exclude_modules": ["layers.0.self_attn.q_proj"]}),
    ("llama", {"layers_to_transform": 1, "layers_pattern": "layers"}),
    ("llama", {"fan_in_fan_out": True}),
    ("llama", {"init_lora_weights": "orthogonal"}),
    ("llama", {"init_lora_weights": "eva"}),
    ("llama", {"init_lora_weights": "gaussian", "lora_dropout": 0.5}),
    ("tied", {"use_dora": True}),
    ("tied", {"target_modules": "all-linear"}),
    ("tied", {"modules_to_save": ["lm_head"]}),
    ("tied", {"modules_to_save": ["embed_tokens"]}),
    ("tied", {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    ("tied", {"trainable_token_indices": [3, 7]}),
    ("qwen2", {"use_dora": True, "bias": "all"}),
    ("qwen2", {"lora_bias": True, "target_modules": ["k_proj", "v_proj"], "use_rslora": True}),
]


@pytest.mark.parametrize(("base", "settings"), ACCEPTED, ids=str)
def test_a_merged_model_computes_what_peft_computes(
    bases: Path, tmp_path: Path, base: str, settings: dict[str, Any]
) -> None:
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    unmerged = make_adapter(bases / base, adapter, **settings)
    assert merge_adapter(adapter, out) > 0
    found = load(out)
    torch.testing.assert_close(logits(found), unmerged, atol=1e-5, rtol=0)
    assert not torch.allclose(logits(load(bases / base)), unmerged, atol=0.05)
    peft = PeftModel.from_pretrained(load(bases / base), adapter).merge_and_unload()
    theirs = dict(peft.named_parameters())
    assert theirs.keys() == dict(found.named_parameters()).keys()
    for name, weight in found.named_parameters():
        torch.testing.assert_close(weight, theirs[name], atol=1e-6, rtol=0)
    is_tied = found.get_output_embeddings().weight is found.get_input_embeddings().weight
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is is_tied


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_adapter_in_half_precision_is_merged_in_float32(
    bases: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    adapter = tmp_path / "adapter"
    make_adapter(bases / "llama", adapter)
    edit_tensors(adapter, lambda tensors: {n: t.to(dtype) for n, t in tensors.items()})
    merge_adapter(adapter, tmp_path / "out")
    adapted = PeftModel.from_pretrained(load(bases / "llama"), adapter)
    torch.testing.assert_close(logits(load(tmp_path / "out")), logits(adapted), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("base", "settings", "reason"),
    [
        ("tied", {"target_modules": ["q_proj", "embed_tokens"]}, "which share their weight"),
        ("tied", {"target_modules": ["lm_head"]}, "which share their weight"),
        (
            "tied",
            {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
            "which share their weight",
        ),
        ("llama", {"lora_bias": True}, "cannot be merged: .*the base layer has no bias"),
        ("llama", {"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ("llama", {"alora_invocation_tokens": [1, 2]}, r"alora_invocation_tokens is \[1, 2\]"),
        ("llama", {"layer_replication": [[0, 2], [1, 2]]}, r"layer_replication is \[\[0, 2\]"),
    ],
)
def test_what_cannot_be_merged_exactly_is_rejected(
    bases: Path, tmp_path: Path, base: str, settings: dict[str, Any], reason: str
) -> None:
    make_adapter(bases / base, tmp_path / "adapter", **settings)
    with pytest.raises(ConfigError, match=reason):
        merge_adapter(tmp_path / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def plain(bases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    adapter = tmp_path_factory.mktemp("plain") / "adapter"
    make_adapter(bases / "llama", adapter)
    return adapter


@pytest.fixture
def adapter(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "adapter"))


def edit_tensors(adapter: Path, change: Any) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def edit_config(adapter: Path, **changes: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda t: {n: v for n, v in t.items() if n != f"{Q}.lora_B.weight"},
            rf"safetensors lacks {Q}.lora_B.weight",
        ),
        (lambda t: t | {f"{Q}.lora_C.weight": torch.ones(2)}, rf"{Q}.lora_C.weight has no place"),
        (
            lambda t: t | {f"{Q.replace('.0.', '.7.')}.lora_A.weight": torch.ones(4, 32)},
            r"layers.7.self_attn.q_proj.lora_A.weight has no place in",
        ),
        (
            lambda t: t | {f"{Q}.lora_magnitude_vector": torch.ones(32)},
            rf"{Q}.lora_magnitude_vector.* has no place",
        ),
        (
            lambda t: t | {f"{Q}.lora_A.weight": torch.ones(4, 31)},
            r"size mismatch for .*layers.0.self_attn.q_proj.lora_A",
        ),
        (
            lambda t: t | {f"{Q}.lora_A.weight": torch.full((4, 32), float("nan"))},
            rf"{Q}.lora_A.weight holds NaN or infinity",
        ),
        (
            lambda t: t | {f"{Q}.lora_A.weight": torch.ones((4, 32), dtype=torch.float64)},
            rf"{Q}.lora_A.weight is float64: save the adapter in float32",
        ),
        (
            lambda t: t | {f"{Q}.lora_A.weight": torch.ones((4, 32)).to(torch.float8_e4m3fn)},
            rf"{Q}.lora_A.weight is float8_e4m3fn",
        ),
        (
            lambda t: t | {f"{Q}.lora_A.weight": torch.ones((4, 32), dtype=torch.int8)},
            rf"{Q}.lora_A.weight is int8",
        ),
    ],
)
def test_every_tensor_has_its_place(adapter: Path, change: Any, reason: str) -> None:
    edit_tensors(adapter, change)
    with pytest.raises(ConfigError, match=reason):
        merge_adapter(adapter, adapter.with_name("out"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"r": 8}, "size mismatch for"),
        ({"use_dora": True}, "lacks .*lora_magnitude_vector"),
        ({"modules_to_save": ["lm_head"]}, "has no tensor .*lm_head"),
        ({"target_modules": ["q_proj", "v_proj"]}, "down_proj.* has no place"),
        ({"target_modules": ["q_proj", "v_proj", "down_proj", "o_proj"]}, "lacks .*o_proj.lora_A"),
        ({"target_modules": ["nothing"]}, "does not fit .*not found in the base model"),
        ({"layers_to_transform": [0]}, "layers.1.* has no place"),
        ({"rank_pattern": {"q_proj": 2}}, "size mismatch for .*q_proj"),
        ({"bias": "all"}, "lacks .*bias"),
        ({"trainable_token_indices": [3]}, "has no tensor .*embed_tokens"),
        ({"trainable_token_indices": [77]}, "does not fit"),
    ],
)
def test_settings_that_do_not_fit_the_tensors_are_rejected(
    adapter: Path, changes: dict[str, object], reason: str
) -> None:
    edit_config(adapter, **changes)
    with pytest.raises(ConfigError, match=reason):
        merge_adapter(adapter, adapter.with_name("out"))


def test_another_base_model_is_rejected(adapter: Path, bases: Path, tmp_path: Path) -> None:
    wide = LlamaConfig(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    LlamaForCausalLM(wide).save_pretrained(tmp_path / "wide")
    edit_config(adapter, base_model_name_or_path=str(tmp_path / "wide"))
    with pytest.raises(ConfigError, match=r"does not fit .*wide: size mismatch for"):
        merge_adapter(adapter, tmp_path / "out")
    edit_config(adapter, base_model_name_or_path=str(bases / "qwen2"))
    edit_config(adapter, target_modules=["q_proj", "v_proj", "c_fc"], bias="all")
    with pytest.raises(ConfigError, match=r"safetensors.* has no place in .*qwen2|lacks .*bias"):
        merge_adapter(adapter, tmp_path / "out")


def test_a_base_model_that_is_not_there_is_named_with_its_key(adapter: Path) -> None:
    edit_config(adapter, base_model_name_or_path="/nowhere/base")
    with pytest.raises(
        ConfigError,
        match=r"adapter_config.json: base_model_name_or_path: .*/nowhere/base does not exist",
    ):
        merge_adapter(adapter, adapter.with_name("out"))


def test_a_pickle_is_rejected_with_the_way_out(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ConfigError, match=r"adapter_model.bin is a pickle.*save_pretrained"):
        merge_adapter(adapter, adapter.with_name("out"))
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(ConfigError, match=r"it has no adapter_model.safetensors"):
        merge_adapter(adapter, adapter.with_name("out"))
    (adapter / "adapter_model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ConfigError, match=r"adapter_model.safetensors is damaged"):
        merge_adapter(adapter, adapter.with_name("out"))


def test_an_adapters_own_tokenizer_goes_with_the_merged_model(tmp_path: Path) -> None:
    base = save_tiny_checkpoint(tmp_path / "base")
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    make_adapter(base, adapter)
    merge_adapter(adapter, out)
    assert AutoTokenizer.from_pretrained(out).chat_template is None  # the base's
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{% for m in messages %}w1 {{ m['content'] }}{% endfor %}"
    tokenizer.add_special_tokens({"eos_token": "w100"})
    tokenizer.save_pretrained(adapter)
    merge_adapter(adapter, tmp_path / "again")
    found, wanted = (AutoTokenizer.from_pretrained(d) for d in (tmp_path / "again", adapter))
    assert (found.chat_template, found.eos_token_id) == (wanted.chat_template, 100)
    chat = [{"role": "user", "content": "w5 w100"}]
    assert found.apply_chat_template(chat) == wanted.apply_chat_template(chat)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(adapter)
    with pytest.raises(ConfigError, match="its tokenizer has ids up to 101, the model embeds 101"):
        merge_adapter(adapter, tmp_path / "third")
    (adapter / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"tokenizer_config.json is part of a tokenizer, but"):
        merge_adapter(adapter, tmp_path / "third")
