"""`paceline admin`: what an administrator asks of a server."""

from cluster.network.server_connection import connected
from cluster.options.client_options import AdminOptions

_NONE, _AUTO = "none", "auto"


def run(options: AdminOptions) -> int:
    """Carry an action out; return the exit code.

    Raises:
        ConfigError: the server refused it.
        ServiceError: the server was unreachable, or failed.
    """
    with connected(options.connect) as client:
        if options.action == "drain":
            print(f"draining: {client.drain()} requests run")
            return 0
        if options.action == "drafters":
            print(f"drafters: {client.set_drafters(options.num_drafters)}")
            return 0
        wanted = {_NONE: None, _AUTO: ""}.get(options.drafter, options.drafter)
        print(f"drafter: {client.set_drafter(wanted) or _NONE}")
    return 0
