"""`paceline serve` and `paceline demo` on the command line."""

from cluster.cli import table
from cluster.cli.declaration import VerbDeclaration
from cluster.options.demo_options import DemoOptions
from cluster.options.serve_options import ServeOptions

SERVE = VerbDeclaration(
    name="serve",
    options=ServeOptions,
    run=table.serve,
    example="--target smollm2-135m --listen 127.0.0.1:50051",
    flags={
        "Models": (
            "models.target",
            "models.drafter",
            "adapter",
            "watch",
            "mode",
            "models.tp",
            "models.drafters",
            "replicas",
            "models.device",
            "models.ray_address",
        ),
        "Server": ("listen", "http", "token_file", "tls_cert", "tls_key", "journal"),
    },
    fixed=("models.virtual",),
)

DEMO = VerbDeclaration(
    name="demo",
    options=DemoOptions,
    run=table.demo,
    example="--drafter ngram --mode pearl",
    flags={"": ("models.target", "models.drafter", "mode", "http", "models.device")},
    fixed=("models.virtual",),
)
