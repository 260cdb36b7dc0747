"""The tensors of a checkpoint, by name and slice, in the format in which they are held."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from parallel.weights.quantize import can_quantize, quantize, widened
from parallel.weights.stored_matrix import Matrix, StoredMatrix, as_float
from parallel.weights.weight_format import GROUP, WeightFormat
from runtime.errors import ConfigError
from runtime.weights.stored_tensors import TensorEntry, part_name
from runtime.weights.tensors import read_tensor_index
from runtime.weights.weight_choice import choose_weights, dtype_of


class CheckpointSource:
    """Reads the tensors of a checkpoint by name and slice."""

    def __init__(
        self,
        directory: Path,
        weights: str,
        device: torch.device,
        *,
        tensors: Mapping[str, TensorEntry] | None = None,
    ) -> None:
        """Store where the tensors are; files are opened when they are first read.

        Args:
            directory: the checkpoint.
            weights: how its matrices are held, one of `WEIGHTS`.
            device: the device of the returned tensors.
            tensors: the index of the files, if it is known already.

        Raises:
            ConfigError: the device does not hold such weights.
        """
        self.directory = directory
        self._tensors = read_tensor_index(directory) if tensors is None else tensors
        self._handles: dict[Path, Any] = {}
        self._choice = choose_weights(weights, device.type)
        self._device = device

    def read(self, name: str) -> Tensor:
        """Return a whole tensor, in the dtype of the activations.

        Raises:
            ConfigError: there is no tensor of this name, or its numbers cannot be used.
        """
        return self._converted(name, as_float(self._stored(name)), self._choice.activations)

    def read_slice(self, name: str, dim: int, first: int, stop: int) -> Tensor:
        """Return some of a tensor's rows (dim 0) or columns (dim 1), as `read`.

        Raises:
            ConfigError: as `read`.
        """
        part = as_float(self._part(name, dim, first, stop))
        return self._converted(name, part, self._choice.activations)

    def read_matrix(self, name: str, dim: int, first: int, stop: int) -> Matrix:
        """Return some of a linear layer's rows (dim 0) or columns (dim 1), as they are to be held.

        Columns that are no whole groups of a matrix in integer codes are its numbers in float32.

        Raises:
            ConfigError: as `read`.
        """
        form = self._choice.matrices
        if form is not None and not form.is_grouped:
            part = as_float(self._part(name, dim, first, stop))
            return self._converted(name, part, dtype_of(form))
        if dim == 0:
            return self._held(name, self._stored(name, slice(first, stop)))
        # Groups do not depend on where the columns are cut, so that all splits have equal weights.
        start, end = _whole_groups(first, stop, self._entry(name).shape[1])
        held = self._held(name, self._stored(name, slice(None), slice(start, end)))
        if isinstance(held, StoredMatrix):
            columns = held.columns(first - start, stop - start)
            if columns is not None:
                return columns
        return as_float(held)[:, first - start : stop - start].contiguous()

    def _held(self, name: str, stored: Matrix) -> Matrix:
        """Return a matrix in the chosen format: as the file has it, or in integer codes."""
        form = self._choice.matrices
        num_columns = self._entry(name).shape[1]
        if isinstance(stored, StoredMatrix):
            if form is WeightFormat.INT8:
                return widened(stored)
            if form in (None, stored.format):
                return stored
            stored = stored.dequantized()
        if form is None or not can_quantize(num_columns):
            return self._converted(name, stored, stored.dtype)
        finite = self._converted(name, stored, torch.float32)
        try:
            return quantize(finite, form)
        except ValueError as error:
            raise ConfigError(f"{name} of {self.directory}: {error}: use bfloat16") from error

    def _part(self, name: str, dim: int, first: int, stop: int) -> Matrix:
        """Return some rows or columns as the file has them; in numbers if groups are cut."""
        if dim == 0:
            return self._stored(name, slice(first, stop))
        start, end = first, stop
        if self._entry(name).form is not None:
            start, end = _whole_groups(first, stop, self._entry(name).shape[1])
        whole = self._stored(name, slice(None), slice(start, end))
        if (start, end) == (first, stop):
            return whole
        return as_float(whole)[:, first - start : stop - start]

    def _stored(self, name: str, rows: slice = slice(None), columns: slice = slice(None)) -> Matrix:
        """Return a part of a tensor as the file has it; columns are whole groups."""
        entry = self._entry(name)
        if entry.form is None:
            return self._cut(entry.file, name, rows, columns)
        first = 0 if columns.start is None else columns.start
        stop = entry.shape[1] if columns.stop is None else columns.stop
        groups = slice(first // entry.form.group_size, stop // entry.form.group_size)
        per_byte = 2 if entry.form.format is WeightFormat.INT4 else 1
        file = entry.file
        scales = self._cut(file, part_name(name, entry.form.scales_part), rows, groups)
        mins = None
        if entry.form.has_mins:
            mins = self._cut(file, part_name(name, "mins"), rows, groups)
        _check_finite(name, file, scales, mins)
        return StoredMatrix(
            format=entry.form.format,
            codes=self._cut(
                file,
                part_name(name, "codes"),
                rows,
                slice(first // per_byte, stop // per_byte),
            ),
            scales=scales,
            mins=mins,
        )

    def _cut(self, file: Path, name: str, rows: slice, columns: slice) -> Tensor:
        """Return rows, and columns of a matrix, of a tensor in a file."""
        if file not in self._handles:
            self._handles[file] = safe_open(str(file), framework="pt")
        whole = self._handles[file].get_slice(name)
        is_whole_rows = columns in (slice(None), slice(0, whole.get_shape()[-1]))
        part: Tensor = whole[rows] if is_whole_rows else whole[rows, columns]
        return part.contiguous()

    def _entry(self, name: str) -> TensorEntry:
        entry = self._tensors.get(name)
        if entry is None:
            raise ConfigError(
                f"{self.directory} has no tensor {name!r}: the checkpoint is incomplete, or its "
                "config.json belongs to another model"
            )
        return entry

    def _converted(self, name: str, stored: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a tensor in a dtype on the source's device.

        Raises:
            ConfigError: it is not finite, or does not fit the dtype.
        """
        converted = stored.to(device=self._device, dtype=dtype).contiguous()
        # The sum is finite in almost all cases, and needs no second tensor of the same size.
        if not converted.sum(dtype=torch.float32).isfinite() and not converted.isfinite().all():
            _reject_numbers(name, self._entry(name).file, stored, dtype)
        return converted


def _whole_groups(first: int, stop: int, num_columns: int) -> tuple[int, int]:
    """Return the smallest range of whole groups that holds these columns."""
    return first // GROUP * GROUP, min(-(-stop // GROUP) * GROUP, num_columns)


def _check_finite(name: str, file: Path, scales: Tensor, mins: Tensor | None) -> None:
    """Reject scales and minima from which numbers follow that are not finite."""
    if not scales.numel():
        return
    largest = scales.abs().max().float() * 255
    if mins is not None:
        largest = largest + mins.abs().max().float()
    if not largest.isfinite():
        raise ConfigError(
            f"{name} in {file} has scales that are not finite: convert or download it again"
        )


def _reject_numbers(name: str, file: Path, stored: Tensor, dtype: torch.dtype) -> None:
    if not stored.isfinite().all():
        raise ConfigError(f"{name} in {file} holds numbers that are not finite: download it again")
    raise ConfigError(
        f"{name} in {file} holds {float(stored.abs().max()):.4g}, which does not fit "
        f"{str(dtype).removeprefix('torch.')}: use bfloat16 or float32"
    )
