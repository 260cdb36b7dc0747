"""`paceline quantize` on the command line."""

from cluster.cli import table
from cluster.cli.declaration import VerbDeclaration
from cluster.options.quantize_options import QuantizeOptions

QUANTIZE = VerbDeclaration(
    name="quantize",
    options=QuantizeOptions,
    run=table.quantize,
    example="my-model --weights int4 --out my-model-int4",
    arguments=("model",),
    flags={"": ("weights", "out", "texts", "num_texts", "measure", "json")},
)
