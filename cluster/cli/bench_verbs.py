"""The bench verbs of the command line."""

from cluster.cli import table
from cluster.cli.declaration import VerbDeclaration
from cluster.cli.generated import add_verb
from cluster.cli.verbs import Verbs
from cluster.options.bench_options import (
    BenchAdaptersOptions,
    BenchConstraintsOptions,
    BenchDecodeOptions,
    BenchEnginesOptions,
    BenchGuessesOptions,
    BenchLayersOptions,
    BenchLinkOptions,
    BenchQualityOptions,
    BenchServeOptions,
    BenchStepOptions,
    BenchTrainOptions,
)

app = Verbs(no_args_is_help=True, help="Measure, side by side in one run.")

_ALONE = (
    *("models.drafter", "models.drafter_tp", "models.drafters", "models.drafter_device"),
    *(
        "models.layer_parallel",
        "models.tp",
        "models.virtual",
        "models.group_backend",
        "models.link",
        "models.draft_wait_s",
        "models.place",
    ),
    *("models.max_batch", "models.cache_tokens", "models.prefix_cache", "models.ray_address"),
)
"""Of verbs that run a model in one process."""
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
        name="bench engines",
        options=BenchEnginesOptions,
        run=table.bench_engines,
        example="--target smollm2-135m --chat --prompts questions.jsonl",
        flags={
            "Models": ("models.target", "models.weights", "models.threads"),
            "Prompts": ("input.prompts", "input.num_prompts", "input.chat"),
            "Comparison": ("contenders", "llama_python", "max_tokens", "repeats"),
            "": ("keep", "out", "json"),
        },
        fixed=(
            "models.drafter",
            "models.virtual",
            "models.max_batch",
            "models.prefix_cache",
            "models.ray_address",
            "models.drafters",
        ),
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="bench guesses",
        options=BenchGuessesOptions,
        run=table.bench_guesses,
        example="--target smollm2-135m --prompts questions.jsonl --temperature 0,1",
        flags={
            "Models": ("models.target", "models.drafter", "models.weights", "models.threads"),
            "Prompts": ("input.prompts", "input.num_prompts", "input.chat"),
            "Comparison": ("temperatures", "max_tokens", "draft_length", "seed"),
            "": ("keep", "out", "json"),
        },
        fixed=tuple(name for name in _ALONE if name != "models.drafter"),
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="bench step",
        options=BenchStepOptions,
        run=table.bench_step,
        example="--target smollm2-135m --threads 2 --rows 1,4",
        flags={
            "Model": ("models.target", "models.weights", "models.threads"),
            "Step": ("context_tokens", "rows", "repeats"),
            "": ("out", "json"),
        },
        fixed=_ALONE,
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="bench adapters",
        options=BenchAdaptersOptions,
        run=table.bench_step,
        example="--target smollm2-135m --threads 2 --sequences 1,8",
        flags={
            "Model": ("models.target", "models.weights", "models.threads"),
            "Step": ("sequences", "rows", "context_tokens", "repeats"),
            "Adapters": ("lora_rank", "targets"),
            "": ("json",),
        },
        fixed=_ALONE,
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="bench quality",
        options=BenchQualityOptions,
        run=table.bench_quality,
        example="--target smollm2-135m --texts gsm8k.jsonl --weights bfloat16",
        flags={
            "": ("keep", "out", "json"),
            "Model": ("models.target", "models.threads", "formats"),
            "Texts": ("texts", "num_texts", "chat", "max_tokens"),
        },
        fixed=(*_ALONE, "models.weights", "models.device"),
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="bench constraints",
        options=BenchConstraintsOptions,
        run=table.bench_constraints,
        example="--target smollm2-135m --repeats 1",
        flags={
            "Models": ("models.target", "models.drafter", "models.weights", "models.threads"),
            "Tasks": ("tasks", "num_tasks", "max_tokens", "temperature"),
            "Comparison": ("repeats",),
            "": ("keep", "out", "json"),
        },
        fixed=("models.virtual", "models.drafters"),
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
