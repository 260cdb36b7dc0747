"""Trained drafters on disk: a Hugging Face directory without what it shares with its target.

The embedding is the target's own and is not stored again; the head scores only some tokens. The
`paceline_drafter` entry of config.json carries the digests of both, so that a damaged drafter, or
one made for another target, is rejected by name.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from parallel.device_kernels.kernel_loader import KernelsMissing
from parallel.group import Group
from parallel.model.model_config import ModelConfig
from parallel.model.shapes import tensor_shapes
from parallel.model.transformer import Decoder
from parallel.weights.stored_matrix import Matrix, permuted
from parallel.weights.weight_format import WeightFormat
from runtime.errors import ConfigError
from runtime.models.checkpoint_files import (
    EMBEDDING,
    HEAD,
    CheckpointFiles,
    check_stated_layout,
    read_checkpoint,
    read_config_json,
    read_model_config,
)
from runtime.models.model_facts import ModelFacts
from runtime.weights.checkpoint_source import CheckpointSource
from runtime.weights.tensors import check_tensors, read_tensor_index
from runtime.weights.weight_choice import AUTO

DRAFTER_KEY = "paceline_drafter"
_FORMAT = 1
_OWN_FORMAT = WeightFormat.INT8
"""In which a CPU holds a trained drafter's own matrices, unless another format is named.

The drafter of smollm2-135m then takes 0.79 of the time of its stored float16 for a token, and
agrees with its target as often (32.3 % and 32.0 % of 384 tokens of Spec-Bench, 2026-11-30). With
int4 it takes 0.58, but 6 % of what the target accepts is lost (30.0 %).
"""
_HEAD_TOKENS = "head.token_ids"
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterManifest:
    """The manifest of a trained drafter."""

    target: str
    """Name of the target it was trained for, for people."""
    head_size: int
    trained_head: bool
    """Whether it has its own head; without one, the target's embedding rows score."""
    embedding_sha256: str
    """Digest of the target's embedding, as `embedding_digest` returns it."""
    weights_sha256: str
    prompt_window: int | None = None
    """Tokens of a prompt's end that it reads, as it was trained on no longer ones; None: all."""
    format: int = _FORMAT

    @property
    def version(self) -> str:
        """The digest that identifies this version's weights."""
        return self.weights_sha256[:12]


def is_drafter(directory: Path) -> bool:
    """Whether a directory holds a trained drafter rather than a whole model."""
    return DRAFTER_KEY in _read_config(directory)


def read_manifest(directory: Path) -> DrafterManifest:
    """Return a drafter's manifest.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    entry = _read_config(directory).get(DRAFTER_KEY)
    try:
        manifest = DrafterManifest(**entry) if isinstance(entry, dict) else None
    except TypeError as error:
        raise ConfigError(f"drafter {directory}: its config.json is damaged: {error}") from error
    if manifest is None:
        raise ConfigError(f"{directory} is no trained drafter: config.json has no {DRAFTER_KEY}")
    if manifest.format != _FORMAT:
        raise ConfigError(
            f"drafter {directory} has format {manifest.format}, this version reads {_FORMAT}: "
            "train it again or take a newer paceline"
        )
    window = manifest.prompt_window
    if window is not None and (type(window) is not int or window < 1):
        raise ConfigError(
            f"drafter {directory}: prompt_window in config.json is {window!r}: write a number of "
            "tokens from 1 on, or null for whole prompts"
        )
    return manifest


def check_drafter(directory: Path, target_directory: Path) -> DrafterManifest:
    """Check that a drafter is complete and was trained for this target; reads both files.

    Raises:
        ConfigError: it is truncated, corrupt, or was trained for another target.
    """
    manifest = read_manifest(directory)
    weights = directory / _WEIGHTS
    if not weights.is_file():
        raise ConfigError(f"drafter {directory} has no {_WEIGHTS}: copy it again")
    if _file_digest(weights) != manifest.weights_sha256:
        raise ConfigError(
            f"drafter {directory} is truncated or corrupt: {_WEIGHTS} does not have the digest "
            "that config.json states; copy it again"
        )
    files = read_drafter(directory)
    found = (HEAD in files.tensors, files.tensors[_HEAD_TOKENS].shape[0])
    if found != (manifest.trained_head, manifest.head_size):
        raise ConfigError(
            f"drafter {directory}: {DRAFTER_KEY} in config.json states trained_head "
            f"{manifest.trained_head} and head_size {manifest.head_size}, but {_WEIGHTS} has "
            f"{found[0]} and {found[1]}: copy it again"
        )
    if embedding_digest(target_directory) != manifest.embedding_sha256:
        raise ConfigError(
            f"drafter {directory} was trained for {manifest.target}, whose embedding differs from "
            f"that of {target_directory}: train one for this target with paceline draft train"
        )
    return manifest


def embedding_digest(directory: Path) -> str:
    """Return the SHA-256 of a checkpoint's embedding in float32, rows in order."""
    table = CheckpointSource(directory, "float32", torch.device("cpu")).read(EMBEDDING)
    return hashlib.sha256(table.numpy().tobytes()).hexdigest()


class DrafterSource:
    """The tensors of a drafter; shared ones are read from its target.

    With `auto`, a CPU holds shared ones as the target's file has them, and the others in int8.
    """

    def __init__(
        self, directory: Path, target_directory: Path, weights: str, device: torch.device
    ) -> None:
        files = read_drafter(directory)
        target = read_checkpoint(target_directory)
        self.config = files.config
        expected = (files.config.vocab_size, files.config.hidden_size)
        if target.tensors[EMBEDDING].shape != expected:
            raise ConfigError(
                f"drafter {directory} shares an embedding of the shape {list(expected)}; that of "
                f"{target_directory} has {list(target.tensors[EMBEDDING].shape)}: take its target"
            )
        own = _OWN_FORMAT if weights == AUTO and device.type == "cpu" else weights
        self._own = CheckpointSource(directory, own, device, tensors=files.tensors)
        self._target = CheckpointSource(target_directory, weights, device, tensors=target.tensors)
        self._trained_head = HEAD in files.tensors
        self.head_token_ids = _head_tokens(files)
        """[head_size], int64, rising."""

    def read(self, name: str) -> Tensor:
        """Return a whole tensor."""
        return (self._target if name == EMBEDDING else self._own).read(name)

    def read_slice(self, name: str, dim: int, first: int, stop: int) -> Tensor:
        """Return a range of a tensor; without its own head, the target's rows score."""
        if name == HEAD and not self._trained_head:
            return self._target.read(EMBEDDING)[self.head_token_ids[first:stop]]
        source = self._target if name == EMBEDDING else self._own
        return source.read_slice(name, dim, first, stop)

    def read_matrix(self, name: str, dim: int, first: int, stop: int) -> Matrix:
        """Return a range of a linear layer's weight, as it is to be held."""
        if name == HEAD and not self._trained_head:
            table = self._target.read_matrix(EMBEDDING, 0, 0, self.config.vocab_size)
            return permuted(table, self.head_token_ids[first:stop])
        source = self._target if name == EMBEDDING else self._own
        return source.read_matrix(name, dim, first, stop)


def load_drafter(
    directory: Path,
    target_directory: Path,
    group: Group,
    *,
    weights: str,
    device: torch.device,
    layer_parallel_from: int | None = None,
) -> tuple[Decoder, Tensor]:
    """Build this rank's shard of a drafter; return it with the token ids of its head.

    Raises:
        ConfigError: it cannot be used, or splits over fewer ranks than there are.
    """
    source = DrafterSource(directory, target_directory, weights, device)
    try:
        decoder = Decoder(
            source.config,
            source,
            group,
            head_size=len(source.head_token_ids),
            layer_parallel_from=layer_parallel_from,
            device=device,
        )
    except (ValueError, KernelsMissing) as error:
        raise ConfigError(f"{directory}: {error}") from error
    return decoder, source.head_token_ids


def read_drafter(directory: Path) -> CheckpointFiles:
    """Read a drafter's configuration and the headers of its weights; reads no weights.

    Raises:
        ConfigError: it is damaged, or its tensors are not a drafter's.
    """
    config = read_model_config(directory)
    tensors = read_tensor_index(directory)
    ids = tensors.get(_HEAD_TOKENS)
    if ids is None or ids.dtype != "I32" or len(ids.shape) != 1:
        raise ConfigError(f"drafter {directory} has no {_HEAD_TOKENS} of type int32: copy it again")
    expected = {n: s for n, s in tensor_shapes(config).items() if n not in (EMBEDDING, HEAD)}
    if HEAD in tensors:
        expected[HEAD] = (*ids.shape, config.hidden_size)
    rest = {name: entry for name, entry in tensors.items() if name != _HEAD_TOKENS}
    check_tensors(directory, rest, expected)
    check_stated_layout(directory, tensors)
    return CheckpointFiles(directory=directory, config=config, tensors=tensors)


def drafter_facts(directory: Path, target: ModelFacts) -> ModelFacts:
    """Return what a drafter needs, with what it shares with its target.

    Raises:
        ConfigError: as `read_drafter`.
    """
    files = read_drafter(directory)
    shared = target.tensors[EMBEDDING]
    head_shape = (files.tensors[_HEAD_TOKENS].shape[0], files.config.hidden_size)
    tensors = {EMBEDDING: shared, HEAD: replace(shared, shape=head_shape)} | dict(files.tensors)
    return ModelFacts(directory=directory, config=files.config, tensors=tensors)


def _head_tokens(files: CheckpointFiles) -> Tensor:
    with safe_open(str(files.tensors[_HEAD_TOKENS].file), framework="pt") as handle:
        ids: Tensor = handle.get_tensor(_HEAD_TOKENS).to(torch.int64)
    inside = int(ids.min()) >= 0 and int(ids.max()) < files.config.vocab_size
    if not inside or not bool((ids.diff() > 0).all()):
        raise ConfigError(
            f"{_HEAD_TOKENS} of drafter {files.directory} are not tokens of its target in rising "
            "order: copy it again"
        )
    return ids


def save_drafter(
    directory: Path,
    *,
    config: ModelConfig,
    target_directory: Path,
    target_name: str,
    tensors: Mapping[str, Tensor],
    head_token_ids: Tensor,
    head: Tensor | None,
    card: str,
    prompt_window: int | None = None,
    dtype: torch.dtype = torch.float16,
) -> DrafterManifest:
    """Write a drafter; the directory appears whole or not at all, and replaces an older one.

    Args:
        directory: where to.
        config: the drafter's shape.
        target_directory: the target's checkpoint, whose embedding it shares.
        target_name: what the user calls the target.
        tensors: `model.layers.*` and `model.norm.weight`.
        head_token_ids: [head_size], the tokens it can draft, rising.
        head: [head_size, hidden_size], or None if the target's embedding rows score.
        card: the model card, Markdown.
        prompt_window: tokens of a prompt's end that it reads; None is all of them.
        dtype: of the stored weights.
    """
    _check_tensors(config, tensors)
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        stored = {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
        stored[_HEAD_TOKENS] = head_token_ids.to(torch.int32).contiguous()
        if head is not None:
            stored[HEAD] = head.to(dtype).contiguous()
        save_file(stored, str(partial / _WEIGHTS), metadata={"format": "pt"})
        manifest = DrafterManifest(
            target=target_name,
            head_size=len(head_token_ids),
            trained_head=head is not None,
            embedding_sha256=embedding_digest(target_directory),
            weights_sha256=_file_digest(partial / _WEIGHTS),
            prompt_window=prompt_window,
        )
        fields = _drafter_config(config, target_directory, dtype) | {DRAFTER_KEY: asdict(manifest)}
        (partial / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(card, encoding="utf-8")
        partial.chmod(0o755)  # a temporary directory, and its files, are readable by the owner only
        (partial / _WEIGHTS).chmod(0o644)
        _replace(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _replace(new: Path, old: Path) -> None:
    """Replace a directory by another; a reader sees one of them, whole."""
    if old.exists():
        aside = new.with_name(new.name + "-old")
        os.rename(old, aside)
        os.rename(new, old)
        shutil.rmtree(aside)
    else:
        os.rename(new, old)


def _check_tensors(config: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    expected = {n: s for n, s in tensor_shapes(config).items() if n not in (EMBEDDING, HEAD)}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert found == expected, f"a drafter's tensors are {expected}, not {found}"


def _drafter_config(
    config: ModelConfig, target_directory: Path, dtype: torch.dtype
) -> dict[str, Any]:
    """Return the target's configuration with the drafter's number of layers."""
    fields = _read_config(target_directory)
    fields["num_hidden_layers"] = config.num_layers
    fields["tie_word_embeddings"] = False
    fields["dtype"] = str(dtype).removeprefix("torch.")
    fields.pop("torch_dtype", None)
    fields.pop("quantization_config", None)  # of the target's weights
    return fields


def _read_config(directory: Path) -> dict[str, Any]:
    read_model_config(directory)  # raises an error that names the problem of the file
    return read_config_json(directory)


def _file_digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
