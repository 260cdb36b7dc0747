"""A copy of a model with its matrices in integer codes, which loads without conversion."""

import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from parallel.model.shapes import tensor_shapes
from parallel.weights.quantize import squared_error
from parallel.weights.stored_matrix import Matrix, StoredMatrix
from parallel.weights.weight_format import WeightFormat
from runtime.errors import ConfigError
from runtime.files.strict_json import read_json_object
from runtime.models.checkpoint_files import CheckpointFiles, read_checkpoint
from runtime.weights.checkpoint_source import CheckpointSource
from runtime.weights.stored_tensors import QUANTIZATION_CONFIG
from runtime.weights.weight_writer import WeightWriter

_COPIED = (".json", ".jinja", ".txt", ".model")
"""Suffixes of the files that belong to a model in addition to its weights."""
REPORT_FILE = "quantization_report.json"
"""In the copy: what it changes. A copy of a copy does not inherit it."""
_TEMPLATES = "additional_chat_templates"
_CPU = torch.device("cpu")


@dataclass(slots=True)
class KindError:
    """What the copy changes in the matrices of one kind, as mlp.up_proj."""

    formats: set[str] = field(default_factory=set)
    """In which they are held."""
    num_matrices: int = 0
    squared: float = 0.0
    squared_error: float = 0.0

    @property
    def relative(self) -> float:
        """The root mean square of the differences over that of the weights."""
        return (self.squared_error / self.squared) ** 0.5 if self.squared else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedCopy:
    """What was written."""

    bytes_before: int
    """Of the weights in the files of the model."""
    bytes_after: int
    kinds: dict[str, KindError]


def quantize_checkpoint(
    directory: Path,
    out: Path,
    form: WeightFormat,
    watch: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> QuantizedCopy:
    """Write a copy of a checkpoint; it appears whole or not at all.

    Args:
        directory: the checkpoint.
        out: where to; a directory that is empty or does not exist.
        form: int8 or int4. Matrices that are in it already keep their codes, and those whose rows
            are no whole groups of 32 weights keep their numbers.
        watch: receives the number of tensors that are done, and of all.

    Raises:
        ConfigError: the checkpoint cannot be used, or `out` has files.
    """
    files = read_checkpoint(directory)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"`out` is {out}, which exists: name a new directory")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise ConfigError(f"`out` is {out}, which cannot be written: {error}") from error
    try:
        copy = _write(files, partial, form, watch)
        partial.chmod(0o755)  # a temporary directory is readable by the owner only
        partial.replace(out)
    except OSError as error:
        raise ConfigError(f"`out` is {out}, which cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return copy


def _write(
    files: CheckpointFiles, out: Path, form: WeightFormat, watch: Callable[[int, int], None]
) -> QuantizedCopy:
    source = CheckpointSource(files.directory, form, _CPU, tensors=files.tensors)
    kinds: dict[str, KindError] = defaultdict(KindError)
    writer = WeightWriter(out)
    shapes = tensor_shapes(files.config)
    for number, (name, shape) in enumerate(shapes.items()):
        watch(number, len(shapes))
        if len(shape) == 1:
            writer.add(name, source.read(name))
            continue
        matrix = source.read_matrix(name, 0, 0, shape[0])
        writer.add(name, matrix)
        _record(kinds[_kind(name)], matrix, source, name)
    writer.finish()
    watch(len(shapes), len(shapes))
    _copy_rest(files.directory, out, has_codes=writer.has_codes)
    return QuantizedCopy(
        bytes_before=sum(files.tensors[name].num_bytes for name in shapes),
        bytes_after=writer.num_bytes,
        kinds=dict(kinds),
    )


def _kind(name: str) -> str:
    """Return the part of a name that the matrices of all layers share."""
    parts = name.removeprefix("model.").removesuffix(".weight").split(".")
    return ".".join(parts[2:] if parts[0] == "layers" else parts)


def _record(kind: KindError, matrix: Matrix, source: CheckpointSource, name: str) -> None:
    weights = source.read(name)
    if isinstance(matrix, StoredMatrix):
        kind.formats.add(matrix.format.value)
    else:
        kind.formats.add(str(matrix.dtype).removeprefix("torch."))
    kind.num_matrices += 1
    kind.squared += float(weights.square().sum(dtype=torch.float64))
    kind.squared_error += squared_error(matrix, weights)


def _copy_rest(source: Path, out: Path, *, has_codes: bool) -> None:
    """Copy configuration and tokenizer; config.json states the layout of the codes."""
    for file in source.iterdir():
        is_own = file.name == REPORT_FILE or file.name.endswith(".index.json")
        if file.suffix in _COPIED and not is_own:
            shutil.copyfile(file, out / file.name)
    if (source / _TEMPLATES).is_dir():
        shutil.copytree(source / _TEMPLATES, out / _TEMPLATES)
    fields = read_json_object(source / "config.json")
    fields.pop("quantization_config", None)
    if has_codes:
        fields["quantization_config"] = dict(QUANTIZATION_CONFIG)
    text = json.dumps(fields, indent=2) + "\n"
    (out / "config.json").write_text(text, encoding="utf-8")
