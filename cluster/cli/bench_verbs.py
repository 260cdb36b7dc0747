"""The bench verbs of the command line."""

from cluster.cli import table
from cluster.cli.declaration import VerbDeclaration
from cluster.cli.generated import add_verb
from cluster.cli.verbs import Verbs
from cluster.options.bench_options import (
    BenchDecodeOptions,
    BenchLayersOptions,
    BenchLinkOptions,
    BenchServeOptions,
    BenchTrainOptions,
)

app = Verbs(no_args_is_help=True, help="Measure, side by side in one run.")

_SETTLED = ("models.drafters", "decode.ignore_eos", "decode.stop")
"""Of verbs that compare runs: these would make them differ."""

add_verb(
    app,
    VerbDeclaration(
        name="bench decode",
        options=BenchDecodeOptions,
        run=table.bench_decode,
        example="--virtual target=40ms,draft=8ms,alpha=0.8 --draft-length 5",
        flags={
            "Models": (
                "models.target",
                "models.drafter",
                "models.virtual",
                "tps",
                "models.ray_address",
            ),
            "Prompts": ("input.prompts", "input.chat"),
            "Comparison": (
                "modes",
                "baselines",
                "repeats",
                "decode.max_tokens",
                "decode.draft_length",
            ),
            "": ("json",),
        },
        fixed=("models.tp", "decode.mode", *_SETTLED),
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="bench link",
        options=BenchLinkOptions,
        run=table.bench_link,
        example="--count 200 --gap-ms 40",
        flags={"": ("count", "gap_ms", "ray_address", "json")},
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="bench layer-parallel",
        options=BenchLayersOptions,
        run=table.bench_layers,
        example="--target smollm2-135m --drafter target:layers=0-14",
        flags={
            "Models": ("models.target", "models.drafter", "models.virtual", "models.ray_address"),
            "Prompts": ("input.prompts", "input.chat"),
            "Comparison": (
                "widths",
                "drafter_tps",
                "decode.mode",
                "decode.max_tokens",
                "decode.draft_length",
            ),
            "": ("plot", "json"),
        },
        fixed=("models.drafter_tp", "models.layer_parallel", "models.max_batch", *_SETTLED),
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="bench train",
        options=BenchTrainOptions,
        run=table.bench_train,
        example="--workers 8 --schemes uncoded,frc-1,pull --stragglers 1,10",
        flags={
            "": (
                "workers",
                "schemes",
                "factors",
                "slow",
                "steps",
                "batch",
                "step_s",
                "patience",
                "seed",
                "ray_address",
                "json",
            ),
        },
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="bench serve",
        options=BenchServeOptions,
        run=table.bench_serve,
        example="--clients 16 --rate 2 --prompts questions.jsonl",
        flags={
            "Server": ("connect.server", "http", "connect.token_file"),
            "Load": (
                "prompts",
                "chat",
                "clients",
                "rate",
                "requests",
                "max_tokens",
                "ignore_eos",
            ),
            "Comparison": ("modes", "repeats"),
            "": ("plot", "json"),
        },
    ),
)
