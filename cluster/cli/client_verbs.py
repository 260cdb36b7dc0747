"""The verbs that call a server, on the command line."""

from cluster.cli import table
from cluster.cli.declaration import VerbDeclaration
from cluster.cli.generated import add_verb
from cluster.cli.verbs import Verbs
from cluster.options.client_options import (
    AdminAdapterAddOptions,
    AdminAdapterListOptions,
    AdminAdapterRemoveOptions,
    AdminDrafterOptions,
    AdminDraftersOptions,
    AdminDrainOptions,
    AdminStatusOptions,
    ClientOptions,
    TopOptions,
)

_SERVER = ("connect.server", "connect.token_file", "connect.tls", "connect.root_ca")
admin = Verbs(
    no_args_is_help=True, help="Administer a server: its state, its drafter, its adapters."
)
adapter = Verbs(no_args_is_help=True, help="Add, remove and list the adapters of a server.")
admin.add_typer(adapter, name="adapter")

CLIENT = VerbDeclaration(
    name="client",
    options=ClientOptions,
    run=table.client,
    example='--chat "Why is the sky blue?"',
    arguments=("prompt",),
    flags={
        "Server": (*_SERVER, "patience_s"),
        "Request": ("chat", "max_tokens", "temperature", "seed", "mode", "model", "n"),
        "": ("json",),
    },
)
TOP = VerbDeclaration(
    name="top",
    options=TopOptions,
    run=table.top,
    example="--server 127.0.0.1:50051",
    flags={"Server": _SERVER, "": ("interval_s", "once", "json")},
)
add_verb(
    admin,
    VerbDeclaration(
        name="admin status",
        options=AdminStatusOptions,
        run=table.admin_status,
        example="--json",
        flags={"Server": _SERVER, "": ("json",)},
    ),
)
add_verb(
    admin,
    VerbDeclaration(
        name="admin drain",
        options=AdminDrainOptions,
        run=table.admin_drain,
        example="--server 127.0.0.1:50051",
        flags={"Server": _SERVER},
    ),
)
add_verb(
    admin,
    VerbDeclaration(
        name="admin drafter",
        options=AdminDrafterOptions,
        run=table.admin_drafter,
        example="ngram",
        arguments=("drafter",),
        flags={"Server": _SERVER},
    ),
)
add_verb(
    admin,
    VerbDeclaration(
        name="admin drafters",
        options=AdminDraftersOptions,
        run=table.admin_drafters,
        example="4",
        arguments=("num_drafters",),
        flags={"Server": _SERVER},
    ),
)
add_verb(
    adapter,
    VerbDeclaration(
        name="admin adapter add",
        options=AdminAdapterAddOptions,
        run=table.admin_adapter,
        example="sst2 runs/sst2/final",
        arguments=("name", "directory"),
        flags={"Server": _SERVER},
    ),
)
add_verb(
    adapter,
    VerbDeclaration(
        name="admin adapter remove",
        options=AdminAdapterRemoveOptions,
        run=table.admin_adapter,
        example="sst2",
        arguments=("name",),
        flags={"Server": _SERVER},
    ),
)
add_verb(
    adapter,
    VerbDeclaration(
        name="admin adapter list",
        options=AdminAdapterListOptions,
        run=table.admin_adapter,
        example="--json",
        flags={"Server": _SERVER, "": ("json",)},
    ),
)
