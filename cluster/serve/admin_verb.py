"""`paceline admin`: change a running server.

All functions raise ConfigError if the server rejects the change, and ServiceError if the server was
unreachable or failed.
"""

from cluster.network.server_connection import connected
from cluster.options.client_options import (
    AdminDrafterOptions,
    AdminDraftersOptions,
    AdminDrainOptions,
)

_NONE, _AUTO = "none", "auto"


def drain(options: AdminDrainOptions) -> int:
    """Start draining a server; return the exit code."""
    with connected(options.connect) as client:
        print(f"draining: {client.drain()} requests run")
    return 0


def set_drafter(options: AdminDrafterOptions) -> int:
    """Replace the drafter of a server; return the exit code."""
    drafter = {_NONE: None, _AUTO: ""}.get(options.drafter, options.drafter)
    with connected(options.connect) as client:
        print(f"drafter: {client.set_drafter(drafter) or _NONE}")
    return 0


def set_drafters(options: AdminDraftersOptions) -> int:
    """Change the number of drafters of a server; return the exit code."""
    with connected(options.connect) as client:
        print(f"drafters: {client.set_drafters(options.num_drafters)}")
    return 0
