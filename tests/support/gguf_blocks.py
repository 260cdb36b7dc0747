"""Tensors in the types of GGUF files."""

import gguf
import numpy as np

_RANDOM = ("Q4_K", "Q5_K", "Q6_K")
"""Types that gguf does not write."""


def blocks_of(
    kind: gguf.GGMLQuantizationType, *, rows: int, columns: int, seed: int = 0
) -> np.ndarray:
    """Return random weights as a file stores them; those of quantized types are bytes, by row.

    The weights have a mean square of about 0.02.
    """
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((rows, columns)) * 0.15).astype(np.float32)
    match kind.name:
        case "F32":
            return values
        case "F16":
            return values.astype(np.float16)
        case name if name in _RANDOM:
            return _random_blocks(kind, rows, columns, rng)
        case _:
            return np.asarray(gguf.quantize(values, kind))


def tensor_of(name: str, data: np.ndarray, kind: gguf.GGMLQuantizationType) -> gguf.ReaderTensor:
    """Return a tensor as gguf's reader returns it."""
    shape = np.array(data.shape[::-1], dtype=np.uint64)
    return gguf.ReaderTensor(
        name=name,
        tensor_type=kind,
        shape=shape,
        n_elements=data.size,
        n_bytes=data.nbytes,
        data_offset=0,
        data=data,
        field=gguf.ReaderField(0, name),
    )


def _random_blocks(
    kind: gguf.GGMLQuantizationType, rows: int, columns: int, rng: np.random.Generator
) -> np.ndarray:
    """Return blocks with random codes and 6-bit scales, of weights of about the usual size."""
    size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // size, num_bytes), dtype=np.uint8)
    if kind.name == "Q6_K":  # int8 scales, then the float16 number that multiplies them
        factors = {208: 0.15 / (18 * 64)}
    else:  # codes around their mean: the minimum is about half of the largest weight
        largest_code = 15 if kind.name == "Q4_K" else 31
        factors = {0: 0.5 / (largest_code * 32), 2: 0.25 / 32}
    for at, factor in factors.items():
        spread = rng.uniform(0.5, 1.5, (len(blocks), 1)) * factor
        blocks[:, at : at + 2] = spread.astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)
