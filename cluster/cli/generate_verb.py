"""`paceline generate` on the command line."""

from cluster.cli import table
from cluster.cli.declaration import VerbDeclaration
from cluster.options.generate_options import GenerateOptions

GENERATE = VerbDeclaration(
    name="generate",
    options=GenerateOptions,
    run=table.generate,
    example='--target smollm2-135m --chat --prompt "Why is the sky blue?"',
    flags={
        "Models": (
            "models.target",
            "models.drafter",
            "models.tp",
            "models.ray_address",
        ),
        "Prompts": ("input.prompt", "input.prompts", "input.chat"),
        "Decoding": (
            "decode.mode",
            "decode.max_tokens",
            "decode.temperature",
        ),
        "Constraints": (
            "constraint.json_schema",
            "constraint.regex",
            "constraint.grammar",
            "constraint.choice",
            "constraint.align",
            "constraint.close",
        ),
        "": ("json",),
    },
)
