"""`paceline simulate` on the command line."""

from cluster.cli import table
from cluster.cli.declaration import VerbDeclaration
from cluster.cli.generated import add_verb
from cluster.cli.verbs import Verbs
from cluster.options.simulate_options import SimulateSeedsOptions, SimulateTrainOptions

app = Verbs(no_args_is_help=True, help="Simulate training on clusters that do not exist.")

add_verb(
    app,
    VerbDeclaration(
        name="simulate train",
        options=SimulateTrainOptions,
        run=table.simulate_train,
        example="--workers 256 --model serverless --schemes uncoded,gc-15,m-sgc-1-2-27",
        flags={
            "": (
                "workers",
                "model",
                "schemes",
                "rounds",
                "patience",
                "slope",
                "seed",
                "plot",
                "json",
            )
        },
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="simulate shared-seed",
        options=SimulateSeedsOptions,
        run=table.simulate_seeds,
        example="--machines 256 --rtt 150 --loss 0.02",
        flags={
            "": ("machines", "rounds", "directions", "compute_s", "seed", "json"),
            "Links": ("rtt_ms", "mbit_s", "loss", "leaves_per_hour"),
        },
    ),
)
