"""Writes float32 arrays as a safetensors file, without a second copy of them in memory.

The format is https://huggingface.co/docs/safetensors: the length of a JSON header, the header, the
arrays' bytes. The library's own writer copies every array, which a driver that holds several
vectors of a model's size has no room for, and reports a full disk as an error of its own.
"""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 8


def write_vectors(
    file: Path, arrays: Mapping[str, NDArray[np.float32]], metadata: Mapping[str, str]
) -> None:
    """Write arrays by name, and wait until the disk has them.

    Raises:
        OSError: the file cannot be written; names it.
    """
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    names, first = sorted(arrays), 0
    for name in names:
        assert arrays[name].dtype == np.float32
        stop = first + arrays[name].nbytes
        shape = list(arrays[name].shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [first, stop]}
        first = stop
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    try:
        with file.open("wb") as opened:
            opened.write(struct.pack("<Q", len(header)) + header)
            for name in names:
                opened.write(np.ascontiguousarray(arrays[name]).data)
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error
