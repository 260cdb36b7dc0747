"""Adapters that a server adds to its model's products, without a merge.

Low-rank updates of the layers' products can be served; what changes the model in another way is
rejected by name, and has to be merged. `adapter_config.py` has read the settings before.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parallel.messages import VERSION_MARK
from parallel.model.low_rank import PART_NAMES, AdaptedPart, Adapter, LowRank, check_adapter
from parallel.model.model_config import ModelConfig
from runtime.errors import ConfigError
from runtime.models.checkpoint import resolve_model
from runtime.models.tokenizer import Tokenizer
from runtime.training.adapters.adapter_config import CONFIG_FILE, read_adapter_config
from runtime.training.adapters.adapter_tensors import WEIGHTS_FILE, read_adapter_tensors

_MERGE = "a server cannot add this to its model: merge it with `paceline train merge`"
_NOT_LOW_RANK = {
    "use_dora": "DoRA scales whole weights",
    "lora_bias": "it has biases of its own",
    "modules_to_save": "it replaces whole weights",
    "trainable_token_indices": "it replaces embeddings",
}
_PREFIX = "base_model.model."
_SIDES = ("lora_A", "lora_B")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """The model that a server adds adapters to."""

    name: str
    """As the user named it."""
    directory: Path
    config: ModelConfig
    tokenizer: Tokenizer


def read_unmerged(directory: Path, name: str, base: BaseModel) -> Adapter:
    """Read an adapter that can be served; its name becomes `name@digest of its numbers`.

    Raises:
        ConfigError: it cannot be read, does not belong to the model, or is more than low-rank
            updates of the layers' products; names what.
    """
    settings = read_adapter_config(directory)
    file = directory / CONFIG_FILE
    _check_meaning(settings.table, file)
    _check_base(settings.base, base, file)
    _check_tokenizer(directory, base)
    tensors = read_adapter_tensors(directory)
    targets = _Targets(settings.table)
    layers: list[dict[AdaptedPart, LowRank]] = []
    for index in range(base.config.num_layers):
        layers.append({})
        for part, last in PART_NAMES.items():
            layer = f"model.layers.{index}.{last}"
            sides = [tensors.pop(f"{_PREFIX}{layer}.{side}.weight", None) for side in _SIDES]
            down, up = sides
            if down is not None and up is not None:
                layers[index][part] = _scaled(layer, down, up, settings.table, directory)
            elif targets.hold(layer) or down is not None or up is not None:
                side = _SIDES[down is not None]
                raise ConfigError(
                    f"{directory / WEIGHTS_FILE} lacks {_PREFIX}{layer}.{side}.weight, which "
                    f"{CONFIG_FILE} asks for"
                )
    for name_of_rest in sorted(tensors):
        raise ConfigError(
            f"{directory / WEIGHTS_FILE}: {name_of_rest} has no place in the layers of "
            f"{base.name}: {_MERGE}, if it belongs to this model"
        )
    adapter = Adapter(name=f"{name}{VERSION_MARK}{_digest(layers)}", layers=tuple(layers))
    if not any(layers):
        raise ConfigError(f"{directory / WEIGHTS_FILE} holds no tensors: it adapts nothing")
    try:
        check_adapter(adapter, base.config)
    except ValueError as error:
        raise ConfigError(f"{directory} does not fit {base.name}: {error}") from error
    return adapter


def _check_meaning(table: Mapping[str, Any], file: Path) -> None:
    """Raise ConfigError for settings that are more than low-rank updates."""
    for key, reason in _NOT_LOW_RANK.items():
        if table.get(key):
            raise ConfigError(f"{file}: {key} is {table[key]!r}: {reason}: {_MERGE}")
    if table.get("bias") not in (None, "none"):
        raise ConfigError(f"{file}: bias is {table['bias']!r}: it replaces biases: {_MERGE}")
    targets = table.get("target_modules")
    if not targets:
        raise ConfigError(f"{file}: target_modules is {targets!r}: name the adapted layers there")


def _check_base(named: str, base: BaseModel, file: Path) -> None:
    """Raise ConfigError unless the adapter names the served model as its base.

    Models of one shape are not one model: the instructed SmolLM2 has the shapes of the plain one.
    """
    last = named.rstrip("/").rpartition("/")[2]
    if named == base.name or last in (
        base.name.rstrip("/").rpartition("/")[2],
        base.directory.name,
    ):
        return
    try:
        if Path(named).expanduser().is_dir() and resolve_model(named) == base.directory:
            return
    except (ConfigError, OSError, RuntimeError):
        pass  # there is no such directory here
    raise ConfigError(
        f"{file}: base_model_name_or_path is {named!r}, this server runs {base.name}: serve that "
        "model, or write this one's name there if both have the same weights"
    )


def _check_tokenizer(directory: Path, base: BaseModel) -> None:
    """Raise ConfigError for an adapter with another tokenizer or chat template than its model."""
    if not (directory / "tokenizer.json").is_file():
        return
    theirs = Tokenizer.load(directory)
    if theirs.digest != base.tokenizer.digest:
        raise ConfigError(
            f"{directory} has a tokenizer with other tokens than {base.name}: {_MERGE}"
        )
    has_template = (directory / "chat_template.jinja").is_file()
    if has_template and theirs.tool_template != base.tokenizer.tool_template:
        raise ConfigError(
            f"{directory} has another chat template than {base.name}: {_MERGE}, or remove its "
            "chat_template.jinja"
        )


def _scaled(
    layer: str, down: Tensor, up: Tensor, table: Mapping[str, Any], directory: Path
) -> LowRank:
    """Return an update with its scale in `up`."""
    rank = _chosen(layer, table.get("rank_pattern"), table["r"])
    alpha = _chosen(layer, table.get("alpha_pattern"), table["lora_alpha"])
    if down.dim() != 2 or up.dim() != 2 or len(down) != rank:
        raise ConfigError(
            f"{directory / WEIGHTS_FILE}: {layer} has an adapter of the shapes "
            f"{tuple(down.shape)} and {tuple(up.shape)}, {CONFIG_FILE} has the rank {rank}"
        )
    scale = alpha / (math.sqrt(rank) if table.get("use_rslora") else rank)
    return LowRank(down.float().contiguous(), (up.double() * scale).float().contiguous())


def _chosen(layer: str, patterns: Mapping[str, Any] | None, default: Any) -> Any:
    """Return a layer's number: that of the first pattern that fits its name, as peft chooses."""
    for pattern, number in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return number
    return default


class _Targets:
    """Which layers an adapter's settings name, as peft reads them."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._named = table["target_modules"]
        self._excluded = table.get("exclude_modules") or []
        indices = table.get("layers_to_transform")
        self._indices = [indices] if isinstance(indices, int) else indices or None
        patterns = table.get("layers_pattern") or []
        self._patterns = [patterns] if isinstance(patterns, str) else patterns

    def hold(self, layer: str) -> bool:
        """Return whether a layer, one of `PART_NAMES`, is to have an adapter."""
        if self._excluded and _fits(layer, self._excluded):
            return False
        if self._named == "all-linear":
            return True
        if not _fits(layer, self._named):
            return False
        if isinstance(self._named, str) or layer in self._named or self._indices is None:
            return True
        found = next((m for m in self._matches(layer) if m is not None), None)
        return found is not None and int(found.group(1)) in self._indices

    def _matches(self, layer: str) -> Iterator[re.Match[str] | None]:
        for pattern in self._patterns or [r"[^.]*"]:
            yield re.match(rf".*\.{pattern}\.(\d+)\.", layer)


def _fits(layer: str, named: str | list[str]) -> bool:
    if isinstance(named, str):
        return re.fullmatch(named, layer) is not None
    return any(layer == one or layer.endswith(f".{one}") for one in named)


def _digest(layers: list[dict[AdaptedPart, LowRank]]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for index, layer in enumerate(layers):
        for part, one in layer.items():
            digest.update(f"{index} {part.value} {tuple(one.down.shape)}".encode())
            for tensor in (one.down, one.up):
                digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()
