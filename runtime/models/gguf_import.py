"""Convert a GGUF file to a Hugging Face directory: `python -m runtime.models.gguf_import SRC DST`.

It is a separate program because it needs transformers, whose import takes longer than the rest of
start-up. The result is read like any other checkpoint.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import gguf
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers.utils import logging as transformers_logging

from parallel.model.shapes import tensor_shapes
from parallel.weights.stored_matrix import Matrix, StoredMatrix, num_outputs, permuted
from runtime.errors import ConfigError
from runtime.models.families.family import GgufFormat
from runtime.models.families.registry import gguf_family
from runtime.models.gguf_blocks import dequantized, read_matrix
from runtime.models.gguf_config import config_of
from runtime.models.gguf_tokenizer import check_tokenizer, end_token_ids, load_tokenizer
from runtime.models.hf_config import parse_config
from runtime.weights.stored_tensors import QUANTIZATION_CONFIG, TensorEntry, save_matrices
from runtime.weights.tensors import check_tensors

_EMBEDDING, _ROPE_FREQS = "token_embd.weight", "rope_freqs.weight"
_TOP = {
    _EMBEDDING: "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LONG_ARRAYS = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.ggml.merges")
"""Used only by transformers; reading them from the file is slow."""


def convert(source: Path, directory: Path, progress: Progress) -> None:
    """Write weights, configuration and tokenizer of a GGUF file to a directory.

    Matrices keep the numbers of the file, in integer codes where it has them.

    Raises:
        ConfigError: the file is not a readable GGUF file, or has something that is not supported.
    """
    task = progress.add_task(f"reading {source.name}", total=None)
    reader = _open(source)
    try:
        metadata = _metadata(reader)
        config = _config(reader, metadata)
        _, file_format = gguf_family(metadata.get("general.architecture"))
        parsed = parse_config(config)
        check_tokenizer(metadata, parsed.vocab_size)
        progress.update(task, description=f"converting {source.name}", total=len(reader.tensors))
        weights: dict[str, Matrix] = {}
        for tensor in reader.tensors:
            if tensor.name != _ROPE_FREQS:
                name = _name(tensor.name, file_format)
                weights[name] = _restored(name, tensor, file_format, config)
            progress.advance(task)
        for name, shape in tensor_shapes(parsed).items():
            if name.endswith(".bias") and name not in weights:
                weights[name] = torch.zeros(shape)  # llama.cpp has no bias there
        found = {name: TensorEntry(source, "F32", _shape(m)) for name, m in weights.items()}
        check_tensors(source, found, tensor_shapes(parsed))
        progress.update(task, description="writing the tokenizer")
        load_tokenizer(source, metadata).save_pretrained(directory)
    except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
        raise ConfigError(f"{source}: {error}") from error
    progress.update(task, description="writing the weights")
    ends = {"eos_token_id": end_token_ids(metadata)}
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    config |= ends | {"bos_token_id": bos}
    if any(isinstance(matrix, StoredMatrix) for matrix in weights.values()):
        config["quantization_config"] = dict(QUANTIZATION_CONFIG)
    _write_json(directory / "config.json", config)
    _write_json(directory / "generation_config.json", ends | {"bos_token_id": bos})
    save_matrices(directory, weights)


def _open(source: Path) -> gguf.GGUFReader:
    try:
        reader = gguf.GGUFReader(source)
    except (ValueError, IndexError, KeyError, OSError, OverflowError, MemoryError) as error:
        raise ConfigError(f"{source} cannot be read as GGUF ({error}): is it complete?") from error
    if reader.byte_order != "I":
        raise ConfigError(
            f"{source} has another byte order than this machine: convert it with "
            "gguf-convert-endian"
        )
    return reader


def _metadata(reader: gguf.GGUFReader) -> dict[str, object]:
    """Return all keys with their values, except for arrays that only transformers reads."""
    return {
        name: [] if name in _LONG_ARRAYS else field.contents()
        for name, field in reader.fields.items()
    }


def _config(reader: gguf.GGUFReader, metadata: dict[str, object]) -> dict[str, object]:
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    embedding, freqs = tensors.get(_EMBEDDING), tensors.get(_ROPE_FREQS)
    if embedding is None:
        raise ValueError(f"the tensor {_EMBEDDING} is missing")
    return config_of(
        metadata,
        frozenset(tensors),
        vocab_size=int(embedding.shape[-1]),
        rope_freqs=None if freqs is None else dequantized(freqs).numpy(),
    )


def _restored(
    name: str,
    tensor: gguf.ReaderTensor,
    file_format: GgufFormat,
    config: Mapping[str, object],
) -> Matrix:
    """Return a tensor as Hugging Face orders it: vectors in float32, matrices as they are held."""
    if len(tensor.shape) == 1:
        values: Matrix = file_format.restore(name, dequantized(tensor))
    else:
        values = read_matrix(tensor)
    order = file_format.row_order(name, num_outputs(values), config)
    return values if order is None else permuted(values, order)


def _shape(matrix: Matrix) -> tuple[int, ...]:
    if isinstance(matrix, StoredMatrix):
        return (matrix.num_rows, matrix.num_columns)
    return tuple(matrix.shape)


def _name(name: str, file_format: GgufFormat) -> str:
    """Return the Hugging Face name of a GGUF tensor."""
    if name in _TOP:
        return _TOP[name]
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk":
        module = file_format.hf_module(parts[2])
        if module is not None:
            return f"model.layers.{parts[1]}.{module}.{parts[3]}"
    raise ValueError(
        f"the tensor {name!r} is one that the architecture {file_format.architecture} does not have"
    )


def _write_json(file: Path, fields: dict[str, object]) -> None:
    kept = {name: value for name, value in fields.items() if value is not None}
    file.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Convert a file; print why it is unusable on standard output and return 2."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    source = Path(sys.argv[1])
    try:
        with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
            convert(source, Path(sys.argv[2]), progress)
    except ConfigError as error:
        print(error)
        return 2
    except Exception as error:  # libraries raise any error on a damaged file
        print(f"{source} cannot be converted: {type(error).__name__}: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
