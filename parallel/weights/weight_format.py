"""The formats in which a model holds the weights of its matrix products."""

from enum import StrEnum

GROUP = 32
"""Consecutive weights of a row that share a scale, as in GGUF's blocks."""
HALF_GROUP = 16
"""Those that share a scale in int8 matrices of GGUF's Q6_K; such a matrix has whole groups too."""


class WeightFormat(StrEnum):
    """How the weights of matrix products are held; norms and biases are always float."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"
    """One byte a weight, a scale for each group of 32 or each half of one."""
    INT4 = "int4"
    """Half a byte a weight, a scale and perhaps a minimum for each group of 32."""

    @property
    def is_grouped(self) -> bool:
        """Whether the weights are integer codes in groups."""
        return self in (WeightFormat.INT8, WeightFormat.INT4)
