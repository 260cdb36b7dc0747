"""Find models on this node: the driver found them on another node, perhaps at another path."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ConfigError
from runtime.models.checkpoint import resolve_model

_SHIPPED = Path(__file__).parents[1] / "drafters"


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A directory that the driver found, and the name it looked for."""

    directory: str
    name: str


def require_on_this_node(directory: str, what: str) -> Path:
    """Return a directory that the driver found, if this node has it too.

    Raises:
        ConfigError: this node does not have it; names the node.
    """
    path = Path(directory)
    if not path.is_dir():
        raise ConfigError(
            f"node {socket.gethostname()} has no {what} {directory}: keep it on storage that all "
            "nodes share"
        )
    return path


def on_this_node(directory: str, known: Sequence[NamedModel] = ()) -> Path:
    """Return this node's directory of a model; blocks while it is converted or downloaded.

    Args:
        directory: the model's directory on the driver's node.
        known: names to resolve if there is no such directory.

    Raises:
        ConfigError: this node does not have it; names the node.
    """
    path = Path(directory)
    if path.is_dir():
        return path
    if path.parent.name == _SHIPPED.name and (_SHIPPED / path.name).is_dir():
        return _SHIPPED / path.name  # an upload lies elsewhere on each node
    names = [model.name for model in known if model.directory == directory]
    try:
        return resolve_model(names[0] if names else directory)
    except ConfigError as error:
        raise ConfigError(
            f"node {socket.gethostname()} has no {directory} ({error}): keep models on storage "
            "that all nodes share, or name one that every node can download"
        ) from error
