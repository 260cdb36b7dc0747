"""Matrices in integer codes as safetensors hold them: `NAME.codes`, `NAME.scales`, `NAME.mins`.

Scales of halves of groups are `NAME.half_scales`: in their shape they could be those of int4.

Such a file states the version of this layout in its metadata, and its directory in the
`quantization_config` of config.json, so that other readers reject it by name. transformers warns
of an unknown layout and would continue with random weights: so the file has a name of its own.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from parallel.weights.stored_matrix import Matrix, StoredMatrix
from parallel.weights.weight_format import GROUP, HALF_GROUP, WeightFormat
from runtime.errors import ConfigError

VERSION = 1
METHOD = "paceline"
PLAIN_FILE = "model.safetensors"
STORED_FILE = "paceline.safetensors"
"""The name in a directory with matrices in integer codes."""
_METADATA_KEY = "paceline_weights"
FILE_METADATA: Mapping[str, str] = {"format": "pt", _METADATA_KEY: str(VERSION)}
"""The metadata of every weight file that is written with this layout."""
QUANTIZATION_CONFIG: Mapping[str, object] = {"quant_method": METHOD, "version": VERSION}
"""`quantization_config` of a directory with matrices in integer codes."""
_CODES, _SCALES, _HALF_SCALES, _MINS = "codes", "scales", "half_scales", "mins"
_PART = re.compile(rf"(.*\.weight)\.({_CODES}|{_SCALES}|{_HALF_SCALES}|{_MINS})")
_FLOAT_BYTES: Mapping[str, int] = {"F32": 4, "BF16": 2, "F16": 2}
_CODES_PER_BYTE: Mapping[WeightFormat, int] = {WeightFormat.INT8: 1, WeightFormat.INT4: 2}


@dataclass(frozen=True, slots=True)
class StoredForm:
    """The form of a matrix in integer codes."""

    format: WeightFormat
    has_mins: bool = False
    scale_bytes: int = 2
    """Bytes of a scale, and of a minimum."""
    group_size: int = GROUP
    """Weights that share a scale."""

    @property
    def scales_part(self) -> str:
        """Name of the part that holds the scales."""
        return _scales_part(self.group_size)

    def num_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of all parts of a matrix of this shape."""
        num_weights = math.prod(shape)
        per_group = self.scale_bytes * (2 if self.has_mins else 1)
        return (
            num_weights // _CODES_PER_BYTE[self.format] + num_weights // self.group_size * per_group
        )


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """The entry of a tensor in a file's header."""

    file: Path
    dtype: str
    """As safetensors names it: F32, BF16, F8_E4M3 ...; that of the codes in a stored matrix."""
    shape: tuple[int, ...]
    """Of the weights."""
    form: StoredForm | None = None
    """The form of a matrix in integer codes; None for a plain tensor."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor in its file."""
        if self.form is not None:
            return self.form.num_bytes(self.shape)
        return math.prod(self.shape) * _FLOAT_BYTES[self.dtype]


def check_quantization(config: object) -> None:
    """Raise ValueError for a `quantization_config` that is not this layout's."""
    if not config or config == dict(QUANTIZATION_CONFIG):
        return
    if isinstance(config, Mapping) and config.get("quant_method") == METHOD:
        raise ValueError(
            f"quantization_config is {dict(config)}, and this version of paceline reads "
            f"{dict(QUANTIZATION_CONFIG)}: convert the model again"
        )
    raise ValueError(
        "quantized weights (quantization_config) are not supported: use the checkpoint in "
        "float32, bfloat16 or float16, and paceline quantize"
    )


def index_name(weights_file: str) -> str:
    """Return the name of the list of files over which weights are spread."""
    return f"{weights_file}.index.json"


def save_matrices(directory: Path, weights: Mapping[str, Matrix]) -> None:
    """Write the weights of a directory, the matrices as they are held."""
    is_plain = all(isinstance(matrix, Tensor) for matrix in weights.values())
    file = directory / (PLAIN_FILE if is_plain else STORED_FILE)
    parts: dict[str, Tensor] = {}
    for name, matrix in weights.items():
        parts |= part_tensors(name, matrix)
    save_parts(file, parts)


def save_parts(file: Path, parts: Mapping[str, Tensor]) -> None:
    """Write a file of tensors, some of which are parts of matrices."""
    save_file(dict(parts), str(file), metadata=dict(FILE_METADATA))
    file.chmod(0o644)  # safetensors lets only the owner read it


def part_tensors(name: str, matrix: Matrix) -> dict[str, Tensor]:
    """Return the tensors of a file that hold a tensor, by their names."""
    if not isinstance(matrix, StoredMatrix):
        return {name: matrix.contiguous()}
    parts = {_CODES: matrix.codes, _scales_part(matrix.group_size): matrix.scales}
    if matrix.mins is not None:
        parts[_MINS] = matrix.mins
    return {f"{name}.{part}": tensor.contiguous() for part, tensor in parts.items()}


def part_name(name: str, part: str) -> str:
    """Return the name of a part in its file: codes, scales, half_scales or mins."""
    return f"{name}.{part}"


def _scales_part(group_size: int) -> str:
    return _HALF_SCALES if group_size == HALF_GROUP else _SCALES


def join_parts(entries: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Return the entries with one for each matrix in place of those of its parts.

    Raises:
        ConfigError: a part is missing or does not fit the others, or the file states another
            version of the layout.
    """
    found: dict[str, TensorEntry] = {}
    matrices: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in entries.items():
        match = _PART.fullmatch(name)
        if match is None:
            found[name] = entry
        else:
            matrices.setdefault(match[1], {})[match[2]] = entry
    for file in {entry.file for parts in matrices.values() for entry in parts.values()}:
        _check_version(file)
    for name, parts in matrices.items():
        if name in found:
            raise ConfigError(f"{found[name].file} holds {name} twice, as numbers and in codes")
        found[name] = _joined(name, parts)
    return found


def is_converted_file(file: Path) -> bool:
    """Return whether this program wrote a weight file from another format."""
    return _stated_version(file) is not None


def _stated_version(file: Path) -> str | None:
    with safe_open(str(file), framework="pt") as handle:
        metadata: Mapping[str, str] = handle.metadata() or {}
    return metadata.get(_METADATA_KEY)


def _check_version(file: Path) -> None:
    stated = _stated_version(file)
    if stated is None:
        raise ConfigError(
            f"{file} holds quantized weights in a layout that is not known: use the checkpoint in "
            "float32, bfloat16 or float16, and paceline quantize"
        )
    if stated != str(VERSION):
        raise ConfigError(
            f"{file} holds quantized weights in version {stated} of the layout, and this version "
            f"of paceline reads {VERSION}: convert the model again"
        )


def _joined(name: str, parts: Mapping[str, TensorEntry]) -> TensorEntry:
    """Return the entry of a matrix."""
    group_size = HALF_GROUP if _HALF_SCALES in parts else GROUP
    scales_part = _scales_part(group_size)
    for part in (_CODES, scales_part):
        if part not in parts:
            other = next(iter(parts.values()))
            raise ConfigError(
                f"{other.file} has no {part_name(name, part)}, but other parts of this matrix: "
                "convert the model again"
            )
    codes, scales, mins = parts[_CODES], parts[scales_part], parts.get(_MINS)
    form = _format_of(codes.shape, scales.shape, group_size)
    has_fitting_types = codes.dtype == "U8" and scales.dtype in ("F16", "F32")
    has_fitting_mins = mins is None or (mins.shape, mins.dtype) == (scales.shape, scales.dtype)
    has_one_kind = group_size == GROUP or parts.keys() == {_CODES, _HALF_SCALES}
    in_one_file = len({entry.file for entry in parts.values()}) == 1
    if form is None or not (
        has_fitting_types and has_fitting_mins and has_one_kind and in_one_file
    ):
        shown = ", ".join(f"{part} {e.dtype} {list(e.shape)}" for part, e in sorted(parts.items()))
        raise ConfigError(
            f"{codes.file}: the parts of {name} do not fit one another ({shown}): convert the "
            "model again"
        )
    scale_bytes = 2 if scales.dtype == "F16" else 4
    return replace(
        codes,
        shape=(scales.shape[0], scales.shape[1] * group_size),
        form=StoredForm(
            format=form,
            has_mins=mins is not None,
            scale_bytes=scale_bytes,
            group_size=group_size,
        ),
    )


def _format_of(
    codes: tuple[int, ...], scales: tuple[int, ...], group_size: int
) -> WeightFormat | None:
    """Return the format of codes and scales with these shapes; None if there is none."""
    if len(codes) == len(scales) == 2 and codes[0] == scales[0]:
        if group_size == HALF_GROUP:
            is_whole = codes[1] % GROUP == 0 and codes[1] == scales[1] * HALF_GROUP
            return WeightFormat.INT8 if is_whole else None
        for form, per_byte in _CODES_PER_BYTE.items():
            if codes[1] * per_byte == scales[1] * GROUP:
                return form
    return None
