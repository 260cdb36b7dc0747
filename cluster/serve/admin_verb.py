"""`paceline admin`: change a running server.

All functions raise ConfigError if the server rejects the change, and ServiceError if the server was
unreachable or failed.
"""

import json
from dataclasses import asdict
from pathlib import Path

from cluster.network.server_connection import connected
from cluster.options.client_options import (
    AdapterOptions,
    AdminAdapterAddOptions,
    AdminAdapterListOptions,
    AdminAdapterRemoveOptions,
    AdminDrafterOptions,
    AdminDraftersOptions,
    AdminDrainOptions,
)
from runtime.client import AdapterStatus

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


def change_adapters(options: AdapterOptions) -> int:
    """Add, remove or list adapters of a server; return the exit code."""
    with connected(options.connect) as client:
        match options:
            case AdminAdapterAddOptions(name=name, directory=directory):
                added = client.add_adapter(name, _as_the_server_finds_it(directory))
                size = f"{added.num_bytes / 1e6:.1f} MB"
                print(f"adapter {added.version}, {size}, from {added.directory}")
            case AdminAdapterRemoveOptions(name=name):
                removed = client.remove_adapter(name)
                print(f"removed {name}: {removed.open_requests} requests still run with it")
            case AdminAdapterListOptions(json=as_json):
                _print_adapters(client.list_adapters(), as_json=as_json)
    return 0


def _print_adapters(adapters: list[AdapterStatus], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(adapter) for adapter in adapters]))
        return
    for adapter in adapters:
        print(_line(adapter))
    if not adapters:
        print("no adapters: add one with `paceline admin adapter add NAME DIR`")


def _line(adapter: AdapterStatus) -> str:
    share = f"{adapter.accepted / adapter.drafted:.0%}" if adapter.drafted else "none yet"
    return (
        f"{adapter.version}  {adapter.num_bytes / 1e6:.1f} MB  open {adapter.open_requests}  "
        f"finished {adapter.finished}  tokens {adapter.tokens}  drafts accepted {share}  "
        f"{adapter.directory}"
    )


def _as_the_server_finds_it(directory: str) -> str:
    """Return a directory of this machine as an absolute path: a server here has another one."""
    path = Path(directory).expanduser()
    return str(path.absolute()) if path.is_dir() else directory
