"""Files of float32 arrays: what the safetensors library writes, and a full disk named."""

import errno
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from runtime.files.vector_file import write_vectors

ARRAYS: dict[str, NDArray[np.float32]] = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.weight": np.array([np.inf, -0.0, 1e-40], dtype=np.float32),
    "é": np.full((), 2.5, dtype=np.float32),
    "columns": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "empty": np.zeros((0, 4), dtype=np.float32),
}


def test_the_library_reads_the_same_arrays_and_metadata(tmp_path: Path) -> None:
    file = tmp_path / "ours.safetensors"
    write_vectors(file, ARRAYS, {"step": "3"})
    found = load_file(file)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].shape == array.shape
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()
    with safe_open(file, framework="numpy") as opened:
        assert opened.metadata() == {"step": "3"}


def test_the_bytes_are_the_library_s(tmp_path: Path) -> None:
    arrays = {name: np.ascontiguousarray(ARRAYS[name]) for name in ("b", "a.weight")}
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write_vectors(ours, arrays, {"format": "pt"})
    save_file(arrays, theirs, {"format": "pt"})
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_full_disk_is_an_error_of_the_system_that_names_the_file() -> None:
    with pytest.raises(OSError, match="'/dev/full'") as caught:
        write_vectors(Path("/dev/full"), ARRAYS, {})
    assert caught.value.errno == errno.ENOSPC
