"""Options of `paceline quantize`."""

from dataclasses import dataclass
from typing import Literal

from cluster.options.schema import NewDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """Write a copy of a model in integer codes, which loads without conversion.

    The weights of every 32 columns of a row share a scale, as in GGUF files; the report shows how
    far they move. Compare the copy's answers with those of the model before you use it.
    """

    model: str
    """A Hugging Face directory, a GGUF file, a hub id, or smollm2-135m."""
    weights: Literal["int8", "int4"] = "int8"
    """Format of the copy: int8 takes 8.5 bits a weight, int4 takes 5."""
    out: NewDirectory
    """Directory of the copy."""
    json: bool = False
    """Print JSON."""
