"""Weights are written in as many files as their size asks for, and read alike."""

import json
from pathlib import Path

import pytest
import torch

from parallel.weights.weight_format import WeightFormat
from runtime.weights.tensors import read_tensor_index
from runtime.weights.weight_writer import WeightWriter
from tests.support.stored_matrices import random_matrix


def write(directory: Path, *, with_codes: bool = True) -> WeightWriter:
    directory.mkdir()
    writer = WeightWriter(directory)
    for number in range(4):
        writer.add(f"layers.{number}.norm.weight", torch.ones(100))
        if with_codes:
            matrix = random_matrix(10, 64, WeightFormat.INT4, has_mins=True)
            writer.add(f"layers.{number}.up.weight", matrix)
    writer.finish()
    return writer


@pytest.mark.parametrize("with_codes", [False, True])
def test_one_file_has_the_name_of_its_contents(with_codes: bool, tmp_path: Path) -> None:
    writer = write(tmp_path / "model", with_codes=with_codes)
    name = "paceline.safetensors" if with_codes else "model.safetensors"
    assert [file.name for file in (tmp_path / "model").iterdir()] == [name]
    assert (tmp_path / "model" / name).stat().st_mode & 0o777 == 0o644
    assert writer.has_codes is with_codes
    assert writer.num_bytes == 4 * (400 + (10 * 40 if with_codes else 0))


def test_files_have_at_most_the_largest_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.weights.weight_writer.FILE_BYTES", 900)
    write(tmp_path / "model")
    entries = read_tensor_index(tmp_path / "model")
    assert len(entries) == 8
    sizes: dict[Path, int] = {}
    for entry in entries.values():
        sizes[entry.file] = sizes.get(entry.file, 0) + entry.num_bytes
    assert list(sizes.values()) == [800] * 4
    index = json.loads((tmp_path / "model" / "paceline.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 3200
