"""`paceline draft` on the command line."""

from cluster.cli import table
from cluster.cli.declaration import VerbDeclaration
from cluster.cli.generated import add_verb
from cluster.cli.verbs import Verbs
from cluster.options.draft_options import (
    DraftEvalOptions,
    DraftFollowOptions,
    DraftIndexOptions,
    DraftSkipOptions,
    DraftTrainOptions,
)

app = Verbs(no_args_is_help=True, help="Make drafters for a target, and compare them.")
_ONE_TARGET = (
    "models.drafter",
    "models.drafter_tp",
    "models.drafters",
    "models.drafter_device",
    "models.layer_parallel",
    "models.virtual",
    "models.draft_wait_s",
    "models.link",
)
"""What only a deployment with a drafter needs."""
_ONE_PROCESS = (
    *_ONE_TARGET,
    "models.tp",
    "models.group_backend",
    "models.place",
    "models.max_batch",
    "models.cache_tokens",
    "models.prefix_cache",
)
"""What only a deployment needs."""

add_verb(
    app,
    VerbDeclaration(
        name="draft train",
        options=DraftTrainOptions,
        run=table.draft_train,
        example="--target smollm2-135m --prompts questions.jsonl --out my-drafter",
        flags={
            "": ("out", "resume", "json"),
            "Target": ("models.target", "models.device", "models.ray_address"),
            "Answers": ("prompts", "free_prompts", "max_tokens"),
            "Drafter": ("layers", "head_vocab", "steps", "learning_rate"),
        },
        fixed=_ONE_TARGET,
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="draft follow",
        options=DraftFollowOptions,
        run=table.draft_follow,
        example="my-traffic --target smollm2-135m --out my-drafter",
        arguments=("traffic",),
        flags={
            "": ("out", "json"),
            "Target": ("models.target", "models.device", "models.ray_address"),
            "Training": ("rounds", "round_steps", "window", "focus", "learning_rate"),
        },
        fixed=_ONE_PROCESS,
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="draft skip",
        options=DraftSkipOptions,
        run=table.draft_skip,
        example="--target smollm2-135m --prompts questions.jsonl",
        flags={
            "": ("prompts", "num_prompts", "max_tokens", "trials", "seed", "json"),
            "Target": ("models.target", "models.tp", "models.device", "models.ray_address"),
        },
        fixed=_ONE_TARGET,
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="draft index",
        options=DraftIndexOptions,
        run=table.draft_index,
        example="docs/*.txt --target smollm2-135m --out my-store",
        arguments=("files",),
        flags={"": ("target", "out", "json")},
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="draft eval",
        options=DraftEvalOptions,
        run=table.draft_eval,
        example="lookup ngram --target smollm2-135m --prompts questions.jsonl",
        arguments=("drafters",),
        flags={
            "": ("plot", "keep", "json"),
            "Target": ("models.target", "models.device", "models.ray_address"),
            "Prompts": ("input.prompts", "input.num_prompts"),
            "Decoding": ("mode", "draft_length", "max_tokens", "temperature"),
        },
        fixed=("models.drafter", "models.virtual", "models.prefix_cache", "input.prompt"),
    ),
)
