"""A model with an adapter merged into it.

peft does the merging, because it defines the meaning of its settings. This module checks that no
part of an adapter is dropped: every key is in `adapter_config`'s lists, every tensor in the file
has a place in the model, and every adapter weight of the model is in the file.
"""

import warnings
from pathlib import Path
from typing import Any

from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel

from runtime.errors import ConfigError
from runtime.models.checkpoint import resolve_model
from runtime.models.tokenizer import Tokenizer
from runtime.training.adapters.adapter_config import CONFIG_FILE, AdapterConfig, read_adapter_config
from runtime.training.adapters.adapter_tensors import WEIGHTS_FILE, read_adapter_tensors
from runtime.training.adapters.base_model import has_tied_head, load_model
from runtime.training.adapters.saving import TOKENIZER_FILES, save_whole

_ADAPTER = "default"
_REJECTED = (ValueError, TypeError, RuntimeError, LookupError, AttributeError)
"""Errors of peft for settings that do not fit a model."""


def merge_adapter(adapter: Path, out: Path) -> int:
    """Write the model with an adapter merged into it; return the number of changed layers.

    Raises:
        ConfigError: the adapter cannot be read or does not fit its model, or `out` exists.
    """
    settings = read_adapter_config(adapter)
    tensors = read_adapter_tensors(adapter)
    if out.exists():
        raise ConfigError(f"{out} exists: name a new directory")
    try:
        base = resolve_model(settings.base)
    except ConfigError as error:
        raise ConfigError(f"{adapter / CONFIG_FILE}: base_model_name_or_path: {error}") from error
    model = load_model(base)
    tokenizer_directory = _own_tokenizer(adapter, model.get_input_embeddings().num_embeddings)
    with warnings.catch_warnings(action="ignore"):  # what peft warns about is checked here
        adapted = _adapted(model, adapter, settings, tensors)
        layers = [module for module in adapted.modules() if isinstance(module, BaseTunerLayer)]
        _reject_tied(adapted, adapter)
        try:
            merged = adapted.merge_and_unload(safe_merge=True)
        except _REJECTED as error:
            raise ConfigError(f"{adapter} cannot be merged: {error}") from error
    weights = {name: weight.detach().numpy() for name, weight in merged.named_parameters()}
    save_whole(
        out, weights, base, has_tied_head=has_tied_head(merged), tokenizer=tokenizer_directory
    )
    return len(layers)


def _own_tokenizer(adapter: Path, num_rows: int) -> Path | None:
    """Return the adapter's directory if it has its own tokenizer, as trainers save one.

    Raises:
        ConfigError: it is incomplete, or has tokens without an embedding in the model.
    """
    if not (adapter / "tokenizer.json").is_file():
        parts = [name for name in TOKENIZER_FILES if (adapter / name).exists()]
        if parts:
            raise ConfigError(
                f"{adapter / parts[0]} is part of a tokenizer, but there is no tokenizer.json: "
                "save the whole tokenizer there with save_pretrained, or remove its files"
            )
        return None
    largest = max(Tokenizer.load(adapter).vocabulary.values())
    if largest >= num_rows:
        raise ConfigError(
            f"{adapter}: its tokenizer has ids up to {largest}, the model embeds {num_rows}: name "
            "the base model whose embedding was resized in base_model_name_or_path"
        )
    return adapter


def _adapted(
    model: PreTrainedModel, adapter: Path, settings: AdapterConfig, tensors: dict[str, Tensor]
) -> PeftModel:
    """Return a model with an adapter in addition to its weights."""
    base = settings.base
    known = LoraConfig.__dataclass_fields__
    try:
        config = LoraConfig(**{name: v for name, v in settings.table.items() if name in known})
        adapted = PeftModel(model, config, _ADAPTER)
    except _REJECTED as error:
        raise ConfigError(f"{adapter / CONFIG_FILE} does not fit {base}: {error}") from error
    try:
        outcome: Any = set_peft_model_state_dict(adapted, tensors, _ADAPTER)  # torch's named tuple
    except KeyError as error:
        raise ConfigError(f"{adapter / WEIGHTS_FILE} has no tensor {error}") from error
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(f"{adapter / WEIGHTS_FILE} does not fit {base}: {reason}") from error
    if outcome.unexpected_keys:
        raise ConfigError(
            f"{adapter / WEIGHTS_FILE}: {outcome.unexpected_keys[0]} has no place in {base} with "
            f"the settings of {CONFIG_FILE}: is that the model the adapter was trained on?"
        )
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    if missing := sorted(wanted - tensors.keys()):
        raise ConfigError(
            f"{adapter / WEIGHTS_FILE} lacks {missing[0]}, which {CONFIG_FILE} asks for in {base}"
        )
    return adapted


def _reject_tied(adapted: PeftModel, adapter: Path) -> None:
    """Raise ConfigError for an update of one of two layers that share a weight."""
    users: dict[int, list[str]] = {}
    updated = set[int]()
    for name, module in adapted.get_base_model().named_modules(remove_duplicate=False):
        is_adapted = isinstance(module, LoraLayer)
        weight = getattr(module.get_base_layer() if is_adapted else module, "weight", None)
        if isinstance(weight, Tensor) and not name.endswith("base_layer"):
            users.setdefault(id(weight), []).append(name)
            if is_adapted:
                updated.add(id(weight))
    for shared in updated:
        if len(users[shared]) > 1:
            raise ConfigError(
                f"{adapter / CONFIG_FILE}: the adapter updates one of "
                f"{' and '.join(users[shared])}, which share their weight (tie_word_embeddings): "
                "merging would change both; name an untied copy of the base model in "
                "base_model_name_or_path"
            )
