"""Every setting of an adapter is understood, harmless for a reason, or rejected by name."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from runtime.errors import ConfigError
from runtime.training.adapters.adapter_config import HARMLESS, OFF, UNDERSTOOD, read_adapter_config

PLAIN: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "base",
    "r": 4,
    "lora_alpha": 8,
}


def write(directory: Path, text: str) -> Path:
    (directory / "adapter_config.json").write_text(text)
    return directory


def test_every_field_of_peft_is_in_exactly_one_list() -> None:
    lists = [set(UNDERSTOOD), set(HARMLESS), set(OFF)]
    known = set[str]().union(*lists)
    assert {field.name for field in fields(LoraConfig)} <= known
    assert sum(map(len, lists)) == len(known)


def test_what_peft_writes_is_read(tmp_path: Path) -> None:
    written = LoraConfig(base_model_name_or_path="base", r=3, target_modules=["q_proj"])
    written.save_pretrained(str(tmp_path))
    settings = read_adapter_config(tmp_path)
    assert settings.base == "base"
    assert settings.table["r"] == 3


@pytest.mark.parametrize("key", sorted(OFF))
def test_a_feature_that_merging_does_not_know_is_rejected_by_name(tmp_path: Path, key: str) -> None:
    write(tmp_path, json.dumps(PLAIN | {key: {"x": 1}}))
    with pytest.raises(ConfigError, match=rf"adapter_config.json: {key} is {{'x': 1}}: {OFF[key]}"):
        read_adapter_config(tmp_path)
    for off in ("null", "false", "[]", "{}"):
        write(tmp_path, json.dumps(PLAIN | {key: json.loads(off)}))
        read_adapter_config(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "LOHA"),
        ("peft_type", None),
        ("task_type", "SEQ_CLS"),
        ("base_model_name_or_path", None),
        ("base_model_name_or_path", ""),
        ("r", 0),
        ("r", True),
        ("r", 4.0),
        ("r", "4"),
        ("lora_alpha", "16"),
        ("lora_alpha", None),
        ("lora_alpha", [16]),
        ("use_rslora", "true"),
        ("use_rslora", 1),
        ("use_dora", None),
        ("bias", "some"),
        ("bias", True),
        ("rank_pattern", {"q_proj": 0}),
        ("rank_pattern", {"q_proj": 2.5}),
        ("rank_pattern", {"(": 4}),
        ("rank_pattern", None),
        ("alpha_pattern", {"q_proj": "8"}),
        ("alpha_pattern", [8]),
        ("target_modules", 3),
        ("target_modules", ["q_proj", 3]),
        ("target_modules", "q_proj("),
        ("layers_to_transform", -1),
        ("layers_to_transform", [1.5]),
        ("modules_to_save", "lm_head"),
        ("trainable_token_indices", [-3]),
        ("trainable_token_indices", {"embed_tokens": 3}),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", "mica"),
        ("init_lora_weights", 1),
        ("something_new", 0),
        ("something_new", True),
        ("something_new", "on"),
    ],
)
def test_a_value_without_a_meaning_is_rejected_by_name(
    tmp_path: Path, key: str, value: object
) -> None:
    write(tmp_path, json.dumps(PLAIN | {key: value}))
    with pytest.raises(ConfigError, match=rf"adapter_config.json: {key} is "):
        read_adapter_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (json.dumps(PLAIN)[:-1] + ', "r": 8}', "the key 'r' occurs twice"),
        (json.dumps(PLAIN | {"lora_alpha": float("nan")}), "NaN is not a JSON number"),
        (json.dumps(PLAIN).replace("8", "1e999"), "the number 1e999 is too large"),
        ("[" * 100_000, "it nests too deeply"),
        ("[]", "expected a JSON object"),
        ('{"peft_type": "LORA"}', "base_model_name_or_path is missing"),
        (json.dumps({k: v for k, v in PLAIN.items() if k != "r"}), "r is missing"),
        (
            json.dumps({k: v for k, v in PLAIN.items() if k != "lora_alpha"}),
            "lora_alpha is missing",
        ),
    ],
)
def test_a_damaged_file_is_one_error_with_its_name(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"adapter_config.json: {reason}"):
        read_adapter_config(write(tmp_path, text))


def test_a_directory_without_an_adapter_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not an adapter: it has no adapter_config.json"):
        read_adapter_config(tmp_path)
