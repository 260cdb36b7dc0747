"""Reads an adapter's adapter_config.json: every key is understood, harmless, or rejected.

peft drops keys that it does not know with a warning, and computes with the rest; a key that is
dropped can change the merged model. The lists here cover every field of peft's LoraConfig.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import ConfigError
from runtime.files.strict_json import read_json_object

CONFIG_FILE = "adapter_config.json"
_INITS = ("gaussian", "eva", "orthogonal")
"""Starting points that leave the base model's weights as they are."""

_NAMES = ("peft_type", "task_type", "base_model_name_or_path", "init_lora_weights")
"""Keys that are checked, and after that decide nothing."""

HARMLESS = {
    "auto_mapping": "names classes; the tensors' names are checked instead",
    "peft_version": "names what wrote the adapter",
    "inference_mode": "whether the adapter was last used for training",
    "lora_dropout": "applies in training only",
    "megatron_core": "counts only beside megatron_config",
    "qalora_group_size": "counts only beside use_qalora",
    "eva_config": "where training started, not what it added",
    "runtime_config": "how to compute, not what",
    "merge_weights": "a switch of peft 0.2 for its own layers",
}
"""Keys that cannot change the merged model, each with the reason."""

OFF = {
    "revision": "download that revision of the base model and name its directory in "
    "base_model_name_or_path",
    "megatron_config": "Megatron's layers are not supported",
    "loftq_config": "it changes the base model: save the changed base model and merge into that",
    "corda_config": "convert the adapter with peft's path_initial_model_for_weight_conversion",
    "lora_ga_config": "convert the adapter with peft's path_initial_model_for_weight_conversion",
    "velora_config": "VeLoRA is not supported",
    "alora_invocation_tokens": "an activated adapter applies to some tokens only, so it cannot be "
    "merged",
    "use_qalora": "QALoRA belongs to a quantized model",
    "monteclora_config": "Monte Carlo LoRA is not supported",
    "layer_replication": "it gives the model other layers than its config.json has",
    "target_parameters": "adapters of bare parameters are not supported: merge with peft",
    "use_bdlora": "block-diagonal LoRA is not supported",
    "arrow_config": "a router over several adapters cannot be merged",
    "kasa_config": "KaSA changes the base model: merge with peft",
    "enable_lora": "peft 0.2's merged layers are not supported: save the adapter with a newer peft",
}
"""Keys that must be absent, null, false or empty, each with what to do otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """A LoRA adapter's settings, all of them understood."""

    base: str
    """Name or directory of the model that the adapter belongs to."""
    table: dict[str, Any]
    """The whole file, for peft."""

    @property
    def meaning(self) -> dict[str, Any]:
        """The settings that decide what the adapter computes; those that are off are left out."""
        found = {key: self.table.get(key) for key in UNDERSTOOD if key not in _NAMES}
        if found["bias"] == "none":
            found["bias"] = None
        if isinstance(found["target_modules"], list):
            found["target_modules"] = sorted(found["target_modules"])
        return {key: value for key, value in found.items() if value}


def read_adapter_config(adapter: Path) -> AdapterConfig:
    """Read and check the settings in an adapter's directory.

    Raises:
        ConfigError: they cannot be read, or a key has a meaning that merging does not know; names
            the key and its value.
    """
    file = adapter / CONFIG_FILE
    if not file.is_file():
        raise ConfigError(f"{adapter} is not an adapter: it has no {CONFIG_FILE}")
    table = read_json_object(file)
    kind = table.get("peft_type")
    if kind != "LORA":
        raise ConfigError(f"{file}: peft_type is {kind!r}: only LORA adapters can be merged")
    for key, value in table.items():
        reason = _objection(key, value)
        if reason is not None:
            raise ConfigError(f"{file}: {key} is {_short(value)}: {reason}")
    for key in ("base_model_name_or_path", "r", "lora_alpha"):
        if key not in table:
            raise ConfigError(f"{file}: {key} is missing")
    return AdapterConfig(base=table["base_model_name_or_path"], table=table)


def _objection(key: str, value: object) -> str | None:
    """Return why a key's value is rejected; None if it is accepted."""
    if key in HARMLESS:
        return None
    if key in UNDERSTOOD:
        rule = UNDERSTOOD[key]
        return None if rule.holds(value) else f"it must be {rule.wanted}"
    if value is None or value is False or value in ("", [], {}):
        return None  # a feature that is off, which is how peft writes those that an adapter lacks
    return OFF.get(key, "this key is unknown here, and may change what the adapter computes")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


@dataclass(frozen=True, slots=True)
class _Rule:
    holds: Callable[[object], bool]
    wanted: str


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def _is_pattern(value: object) -> bool:
    """Whether a value is names, or a regular expression."""
    if value is None or _is_names(value):
        return True
    return isinstance(value, str) and _compiles(value)


def _is_map(check: Callable[[object], bool]) -> Callable[[object], bool]:
    def holds(value: object) -> bool:
        return isinstance(value, dict) and all(
            _compiles(name) and check(number) for name, number in value.items()
        )

    return holds


def _is_layers(value: object) -> bool:
    return value is None or _is_index(value) or _is_indices(value)


def _is_indices(value: object) -> bool:
    return isinstance(value, list) and all(_is_index(index) for index in value)


def _is_tokens(value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_indices(indices) for indices in value.values())
    return value is None or _is_indices(value)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


_FLAG = _Rule(_is_flag, "true or false")
_PATTERN = _Rule(_is_pattern, "a list of names, a regular expression, or null")

UNDERSTOOD = {
    "peft_type": _Rule(lambda value: value == "LORA", "LORA"),
    "task_type": _Rule(
        lambda value: value in (None, "CAUSAL_LM"),
        "CAUSAL_LM or null: other tasks have other heads",
    ),
    "base_model_name_or_path": _Rule(
        lambda value: isinstance(value, str) and bool(value),
        "the name or the directory of the base model",
    ),
    "r": _Rule(_is_count, "a whole number above 0"),
    "lora_alpha": _Rule(_is_number, "a finite number"),
    "rank_pattern": _Rule(_is_map(_is_count), "an object from name patterns to ranks above 0"),
    "alpha_pattern": _Rule(_is_map(_is_number), "an object from name patterns to finite numbers"),
    "use_rslora": _FLAG,
    "use_dora": _FLAG,
    "lora_bias": _FLAG,
    "fan_in_fan_out": _FLAG,
    "ensure_weight_tying": _FLAG,
    "bias": _Rule(lambda value: value in ("none", "all", "lora_only"), "none, all or lora_only"),
    "target_modules": _PATTERN,
    "exclude_modules": _PATTERN,
    "layers_pattern": _PATTERN,
    "layers_to_transform": _Rule(_is_layers, "a layer's number, a list of them, or null"),
    "modules_to_save": _Rule(
        lambda value: value is None or _is_names(value), "a list of names or null"
    ),
    "trainable_token_indices": _Rule(
        _is_tokens, "a list of token ids, an object from modules to such lists, or null"
    ),
    "init_lora_weights": _Rule(
        lambda value: isinstance(value, bool) or value in _INITS,
        "one of true, false, gaussian, eva and orthogonal: others change the base model as "
        "training starts; convert the adapter with peft's path_initial_model_for_weight_conversion",
    ),
}
"""Keys that peft applies as it merges, each with what it may hold."""
