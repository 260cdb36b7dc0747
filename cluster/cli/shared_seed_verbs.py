"""The bench verbs about shared-seed training, on the command line."""

from cluster.cli import table
from cluster.cli.declaration import VerbDeclaration
from cluster.options.bench_options import BenchLearnOptions, BenchSeedsOptions

BENCH_LEARN = VerbDeclaration(
    name="bench learn",
    options=BenchLearnOptions,
    run=table.bench_learn,
    example="sst2.toml --budget 20000 --out curves",
    arguments=("config",),
    flags={"": ("methods", "budget", "every", "tests", "first_lr", "out", "settings", "json")},
)
BENCH_SHARED_SEED = VerbDeclaration(
    name="bench shared-seed",
    options=BenchSeedsOptions,
    run=table.bench_seeds,
    example="--shapes 1x16,4x4",
    flags={
        "": (
            "model",
            "rank",
            "shapes",
            "wires",
            "machines",
            "length",
            "repeats",
            "threads",
            "json",
        )
    },
)
