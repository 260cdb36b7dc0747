"""`paceline train` and its verbs about a job, on the command line."""

from cluster.cli import table
from cluster.cli.declaration import VerbDeclaration
from cluster.cli.generated import add_verb
from cluster.cli.verbs import RunByDefault, Verbs
from cluster.options.train_options import (
    TrainCancelOptions,
    TrainJoinOptions,
    TrainMergeOptions,
    TrainOptions,
    TrainPlanOptions,
    TrainReplayOptions,
    TrainResumeOptions,
    TrainStatusOptions,
    TrainVerifyOptions,
)

app = Verbs(
    no_args_is_help=True,
    cls=RunByDefault,
    help="Fine-tune on workers, tolerating slow, hung and dead ones: train CONFIG.toml.",
)

add_verb(
    app,
    VerbDeclaration(
        name="train run",
        options=TrainOptions,
        run=table.train,
        example="sst2.toml --set optimizer.steps=200",
        arguments=("config",),
        flags={"": ("settings", "ray_address", "json")},
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="train plan",
        options=TrainPlanOptions,
        run=table.train_plan,
        example="sst2.toml --set workers.count=8",
        arguments=("config",),
        flags={"": ("settings", "bandwidth", "ray_address", "json")},
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="train resume",
        options=TrainResumeOptions,
        run=table.train_resume,
        example="runs/sst2 --set workers.count=8",
        arguments=("directory",),
        flags={"": ("settings", "ray_address", "json")},
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="train cancel",
        options=TrainCancelOptions,
        run=table.train_cancel,
        example="runs/sst2",
        arguments=("directory",),
        flags={"": ("timeout_s", "json")},
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="train status",
        options=TrainStatusOptions,
        run=table.train_status,
        example="runs/sst2 --watch",
        arguments=("directory",),
        flags={"": ("watch", "json")},
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="train merge",
        options=TrainMergeOptions,
        run=table.train_merge,
        example="runs/sst2/final --out sst2-model",
        arguments=("adapter",),
        flags={"": ("out", "json")},
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="train join",
        options=TrainJoinOptions,
        run=table.train_join,
        example="--server 192.0.2.7:50052 --data mine.jsonl",
        flags={
            "": ("data", "model", "name", "reward", "threads", "device", "json"),
            "Connection": (
                "connect.server",
                "connect.token_file",
                "connect.root_ca",
                "connect.tls_cert",
                "connect.tls_key",
                "connect.tls",
            ),
        },
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="train replay",
        options=TrainReplayOptions,
        run=table.train_replay,
        example="--base smollm2-135m --log runs/sst2/seeds.log --out again",
        flags={"": ("log", "out", "base", "json")},
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="train verify",
        options=TrainVerifyOptions,
        run=table.train_verify,
        example="runs/sst2/final --log runs/sst2/seeds.log",
        arguments=("adapter",),
        flags={"": ("log", "base", "json")},
    ),
)
