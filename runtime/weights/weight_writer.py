"""Writes the weights of a model file by file, so that only a part of them is in memory."""

import json
from pathlib import Path

from torch import Tensor

from parallel.weights.stored_matrix import Matrix, StoredMatrix
from runtime.weights.stored_tensors import (
    PLAIN_FILE,
    STORED_FILE,
    index_name,
    part_tensors,
    save_parts,
)

FILE_BYTES = 2 << 30
"""Largest size of a file, unless a single matrix is larger."""


class WeightWriter:
    """Collects tensors, and writes a file whenever they have a certain size."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pending: dict[str, Tensor] = {}
        self._places: dict[str, Path] = {}
        self._files: list[Path] = []
        self.num_bytes = 0
        """Of all tensors so far."""
        self.has_codes = False
        """Whether a matrix in integer codes is among them."""

    def add(self, name: str, matrix: Matrix) -> None:
        """Write a tensor, now or with later ones."""
        self.has_codes |= isinstance(matrix, StoredMatrix)
        parts = part_tensors(name, matrix)
        size = sum(tensor.nbytes for tensor in parts.values())
        if self._pending and self._pending_bytes() + size > FILE_BYTES:
            self._write()
        self._pending |= parts
        self.num_bytes += size

    def finish(self) -> None:
        """Write the rest, and the list of the files if there are several."""
        self._write()
        name = STORED_FILE if self.has_codes else PLAIN_FILE
        if len(self._files) == 1:
            self._files[0].rename(self._directory / name)
            return
        index = {
            "metadata": {"total_size": self.num_bytes},
            "weight_map": {tensor: file.name for tensor, file in self._places.items()},
        }
        text = json.dumps(index, indent=2) + "\n"
        (self._directory / index_name(name)).write_text(text, encoding="utf-8")

    def _write(self) -> None:
        file = self._directory / f"weights-{len(self._files) + 1:05d}.safetensors"
        save_parts(file, self._pending)
        self._files.append(file)
        self._places |= dict.fromkeys(self._pending, file)
        self._pending = {}

    def _pending_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._pending.values())
