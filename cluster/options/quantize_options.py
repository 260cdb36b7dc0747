"""Options of `paceline quantize`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cluster.options.schema import InputFile, NewDirectory
from runtime.checking.tables import Range, Unset


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """Write a copy of a model in integer codes, which loads without conversion.

    The weights of every 32 columns of a row share a scale, as in GGUF files. The report shows how
    far they move, and the perplexity of texts before and after; quantization_report.json in the
    copy keeps it.
    """

    model: str
    """A Hugging Face directory, a GGUF file, a hub id, or smollm2-135m."""
    weights: Literal["int8", "int4"] = "int8"
    """Format of the copy: int8 takes 8.5 bits a weight, int4 takes 5."""
    out: NewDirectory
    """Directory of the copy."""
    texts: InputFile | None = None
    """Texts to score before and after: a .jsonl file whose lines have question and answer, of which
    the answer is scored, or text. A dozen short English samples by default, which show damage, but
    no small difference: take texts like those that the model is for."""
    num_texts: Annotated[int | None, Range(least=1), Unset("all")] = 200
    """Only the first texts of the file."""
    measure: bool = True
    """Score texts before and after; model and copy are then in memory together."""
    json: bool = False
    """Print JSON."""
