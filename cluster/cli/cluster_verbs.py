"""The verbs about a Ray cluster: look at it, submit jobs to it."""

from cluster.cli import table
from cluster.cli.declaration import VerbDeclaration
from cluster.cli.generated import add_verb
from cluster.cli.verbs import Verbs
from cluster.options.cluster_options import CheckOptions, SubmitOptions

app = Verbs(no_args_is_help=True, help="Look at a Ray cluster.")


SUBMIT = VerbDeclaration(
    name="submit",
    options=SubmitOptions,
    run=table.submit,
    example='generate --target smollm2-135m --prompt "Once" --address http://127.0.0.1:8265',
    arguments=("verb",),
    flags={"": ("address", "runtime_env", "working_dir", "submission_id", "detach")},
    passes_on="arguments",
)


@app.callback()
def _group() -> None:
    """Keep the verb's name: a group with one verb would lose it."""


add_verb(
    app,
    VerbDeclaration(
        name="cluster check",
        options=CheckOptions,
        run=table.cluster_check,
        example="--target smollm2-135m --tp 2",
        flags={
            "": ("models.ray_address", "json"),
            "Models to place": (
                "models.target",
                "models.drafter",
                "models.tp",
                "models.device",
                "models.weights",
            ),
        },
    ),
)
