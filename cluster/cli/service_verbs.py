"""`paceline service` on the command line."""

from cluster.cli import table
from cluster.cli.declaration import VerbDeclaration
from cluster.cli.generated import add_verb
from cluster.cli.verbs import Verbs
from cluster.options.cluster_options import (
    ServiceListOptions,
    ServiceLogsOptions,
    ServiceStartOptions,
    ServiceStopOptions,
)

app = Verbs(no_args_is_help=True, help="Servers that a Ray cluster keeps up.")

add_verb(
    app,
    VerbDeclaration(
        name="service start",
        options=ServiceStartOptions,
        run=table.service_start,
        example="chat --target smollm2-135m --listen 0.0.0.0:50051 --journal DIR",
        arguments=("name",),
        flags={"": ("restarts", "ray_address")},
        passes_on="arguments",
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="service list",
        options=ServiceListOptions,
        run=table.service_list,
        example="--json",
        flags={"": ("ray_address", "json")},
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="service logs",
        options=ServiceLogsOptions,
        run=table.service_logs,
        example="chat",
        arguments=("name",),
        flags={"": ("ray_address",)},
    ),
)
add_verb(
    app,
    VerbDeclaration(
        name="service stop",
        options=ServiceStopOptions,
        run=table.service_stop,
        example="chat",
        arguments=("name",),
        flags={"": ("ray_address",)},
    ),
)
