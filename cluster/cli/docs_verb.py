"""`paceline docs options` on the command line."""

from cluster.cli import table
from cluster.cli.declaration import VerbDeclaration
from cluster.cli.generated import add_verb
from cluster.cli.verbs import Verbs
from cluster.options.docs_options import DocsOptions

app = Verbs(no_args_is_help=True, help="Show the reference of the settings.")


@app.callback()
def _group() -> None:
    """Keep the verb's name: a group with one verb would lose it."""


add_verb(
    app,
    VerbDeclaration(
        name="docs options",
        options=DocsOptions,
        run=table.docs_options,
        example="generate",
        arguments=("verb",),
        flags={"": ("out", "frozen")},
    ),
)
