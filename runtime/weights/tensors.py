"""Index the tensors of a checkpoint, and check them against what the model needs."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from runtime.errors import ConfigError
from runtime.files.strict_json import read_json_object
from runtime.weights.stored_tensors import (
    PLAIN_FILE,
    STORED_FILE,
    TensorEntry,
    index_name,
    join_parts,
)

_DTYPES = ("F32", "BF16", "F16")
_HARMLESS = {
    r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq": "computed from the configuration",
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.(cos|sin)_cached": "computed from inv_freq",
    r"model\.layers\.\d+\.self_attn\.masked_bias": "a constant of the causal mask",
}
"""Unused tensors of old checkpoints, and why they are unused; transformers skips them too."""
_QUANTIZED = re.compile(
    r".*(scales?|scale_inv|zeros|zero_points?|qweight|g_idx|absmax|quant_map|quant_state\..*|SCB)"
)


def read_tensor_index(directory: Path) -> dict[str, TensorEntry]:
    """Return the tensors of a directory by name; reads only the headers of the files.

    Raises:
        ConfigError: files are missing, damaged, or disagree with the index.
    """
    single = _weights_file(directory)
    index = directory / index_name(single.name)
    if not index.is_file():
        if not single.is_file():
            raise ConfigError(
                f"{directory} has neither {single.name} nor {index.name}: convert its weights to "
                "safetensors"
            )
        return join_parts(dict(_entries(single)))
    listed = _read_index(index)
    if single.is_file() and set(listed.values()) != {single.name}:
        raise ConfigError(
            f"{directory} has {single.name} beside {index.name}, which names other files: remove "
            "the files that do not belong to the model"
        )
    entries: dict[str, TensorEntry] = {}
    for name in sorted(set(listed.values())):
        for tensor, entry in _entries(directory / name):
            if listed.get(tensor) != name:
                place = listed.get(tensor, "no file")
                raise ConfigError(
                    f"{entry.file} holds {tensor}, which {index.name} lists in {place}: download "
                    "the checkpoint again"
                )
            entries[tensor] = entry
    missing = sorted(listed.keys() - entries.keys())
    if missing:
        raise ConfigError(
            f"{index} lists {missing[0]} in {listed[missing[0]]}, which does not contain it: "
            "download the checkpoint again"
        )
    return join_parts(entries)


def check_tensors(
    source: Path, found: Mapping[str, TensorEntry], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Reject unused tensors, missing ones, and those of another shape or dtype.

    Args:
        source: directory or file, for the messages.
        found: the tensors in it.
        expected: the shape of every tensor that the model reads.

    Raises:
        ConfigError: names the tensor.
    """
    for name, entry in found.items():
        if name in expected:
            _check_dtype(name, entry)
        elif not any(re.fullmatch(pattern, name) for pattern in _HARMLESS):
            _reject_extra(source, name, entry)
    for name, shape in expected.items():
        if name not in found:
            raise ConfigError(
                f"{source} has no tensor {name!r}: it is incomplete, or its configuration belongs "
                "to another model"
            )
        if found[name].shape != shape:
            raise ConfigError(
                f"{name} of {source} has the shape {list(found[name].shape)}, its configuration "
                f"asks for {list(shape)}: do both belong to the same model?"
            )


def _weights_file(directory: Path) -> Path:
    """Return the file of a directory's weights, or of their first part's name."""
    own, plain = directory / STORED_FILE, directory / PLAIN_FILE
    has_own, has_plain = (
        file.is_file() or (directory / index_name(file.name)).is_file() for file in (own, plain)
    )
    if has_own and has_plain:
        raise ConfigError(
            f"{directory} has weights in {own.name} and in {plain.name}: remove those that do not "
            "belong to the model"
        )
    return own if has_own else plain


def _reject_extra(source: Path, name: str, entry: TensorEntry) -> None:
    is_float = entry.form is not None or entry.dtype in _DTYPES
    if _QUANTIZED.fullmatch(name.rpartition(".")[2]) or not is_float:
        raise ConfigError(
            f"{entry.file} holds {name} ({entry.dtype}), as quantized weights do, which are not "
            "supported: use the checkpoint in float32, bfloat16 or float16"
        )
    raise ConfigError(
        f"{source} has the tensor {name}, which the model that its configuration describes does "
        "not have: do both belong to the same model?"
    )


def _check_dtype(name: str, entry: TensorEntry) -> None:
    if entry.form is None and entry.dtype not in _DTYPES:
        raise ConfigError(
            f"{entry.file} stores {name} as {entry.dtype}, which is not supported: use the "
            "checkpoint in float32, bfloat16 or float16"
        )


def _read_index(index: Path) -> dict[str, str]:
    """Return the file of each tensor."""
    content = read_json_object(index)
    try:
        listed = content["weight_map"]
        named = {str(tensor): str(Path(file).name) for tensor, file in listed.items()}
        misplaced = [file for file in listed.values() if Path(file).name != file]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{index} is not an index of safetensors: {error}") from error
    if misplaced or not named:
        raise ConfigError(
            f"{index} is not an index of safetensors: it names {misplaced or 'no file'}"
        )
    return named


def _entries(file: Path) -> Iterator[tuple[str, TensorEntry]]:
    if not file.is_file():
        raise ConfigError(f"weight file {file} is missing: download the checkpoint again")
    try:
        with safe_open(
            str(file), framework="pt"
        ) as handle:  # checks the header against the file size
            for name in list(handle.keys()):
                part = handle.get_slice(name)
                yield name, TensorEntry(file, part.get_dtype(), tuple(part.get_shape()))
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"weight file {file} is truncated or corrupt ({error}): download it again"
        ) from error
