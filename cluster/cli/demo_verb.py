"""`paceline demo` on the command line."""

from cluster.cli import table
from cluster.cli.declaration import VerbDeclaration
from cluster.options.demo_options import DemoOptions

DEMO = VerbDeclaration(
    name="demo",
    options=DemoOptions,
    run=table.demo,
    example="--drafter ngram --mode pearl",
    flags={"": ("models.target", "models.drafter", "mode", "http", "models.device")},
    fixed=("models.virtual",),
)
